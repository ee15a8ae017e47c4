//! `vmkeep keys`.

mod client;
mod destroy;
mod list;
mod rotate_bek;
mod rotate_kek;

use serde::Serialize;
use vmkeep::model::{PointRef, PointSelector};
use vmkeep::vault::EpochBytes;

use super::guest_keys;
use crate::args::{KeysArgs, KeysCommand};
use crate::context::Context;
use crate::error::{Error, Outcome};

pub(crate) fn run(context: &Context<'_>, args: &KeysArgs) -> Result<Outcome, Error> {
    match &args.command {
        KeysCommand::List(args) => list::run(context, args),
        KeysCommand::RotateKek(args) => rotate_kek::run(context, args),
        KeysCommand::RotateBek(args) => rotate_bek::run(context, args),
        KeysCommand::GrantClient(args) => client::grant(context, args),
        KeysCommand::WithdrawClient(args) => client::withdraw(context, args),
        KeysCommand::Destroy(args) => destroy::run(context, args),
        KeysCommand::Restore(args) => guest_keys::restore(context, args),
        KeysCommand::Export(args) => guest_keys::export(context, args),
    }
}

/// What rests on an epoch.
#[derive(Clone, Copy, Serialize)]
struct Resting {
    epoch: u32,
    bytes: u64,
    packs: u64,
}

impl From<&EpochBytes> for Resting {
    fn from(of: &EpochBytes) -> Self {
        Self { epoch: of.epoch, bytes: of.bytes, packs: of.packs }
    }
}

/// The numbers of points, neighbours as ranges: `1-3, 7`.
pub(super) fn numbers(points: &[PointRef]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for point in points {
        let PointSelector::Number(number) = point.selector else { continue };
        match ranges.last_mut().filter(|(_, last)| *last + 1 == number.0) {
            Some((_, last)) => *last = number.0,
            None => ranges.push((number.0, number.0)),
        }
    }
    let show = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_as_ranges() {
        let numbers = |of: &[u64]| {
            let points: Vec<PointRef> = of.iter().map(|n| format!("web@{n}").parse().unwrap()).collect();
            numbers(&points)
        };
        assert_eq!(numbers(&[]), "");
        assert_eq!(numbers(&[1]), "1");
        assert_eq!(numbers(&[1, 2, 3, 5, 8, 9]), "1-3, 5, 8-9");
    }
}
