//! Object names: which object lies where. Names are format (FORMAT.md section 2).

use std::fmt;

use object_store::path::Path;
use vmkeep_envelope::PackName;
use vmkeep_model::{DomainId, LineageId, PointNumber, SessionId};

use crate::error::VaultError;
use crate::place::PackPlace;

/// What an object's name says it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ObjectName {
    /// The vault's own record.
    Vault,
    /// The keys of one domain and epoch under one KEK.
    Key {
        /// Whose keys.
        domain: DomainId,
        /// Their generation.
        epoch: u32,
        /// Which KEK, as [`vmkeep_envelope::wrap_name`] gives it.
        wrap: String,
    },
    /// That a KEK is being changed: hex of what its two ids make.
    Rotation(String),
    /// The tombstone of keys that were destroyed.
    KeyDestroyed {
        /// Whose keys.
        domain: DomainId,
        /// Their generation.
        epoch: u32,
    },
    /// VM name to lineage; the hash is 32 hex digits.
    Name(String),
    /// A point, void or closed record.
    Point(LineageId, PointNumber),
    /// Hint where the newest point is.
    Head(LineageId),
    /// Numbers that no longer count.
    Retired(LineageId, u64),
    /// An open session.
    Session(SessionId),
    /// A file that a killed process left half-written in a folder vault.
    Stage(SessionId, String),
    /// The first mark of a point: forgotten, as a rule.
    Forget(LineageId, PointNumber),
    /// A later mark of a point, from 2.
    Mark(LineageId, PointNumber, u32),
    /// A reader's claim on a point.
    Pin(LineageId, PointNumber, [u8; 16]),
    /// A part of what a sweep is about to remove.
    Plan(LineageId, SessionId, u32),
    /// A pack that waits to be repacked.
    Worn(LineageId, SessionId, PackName),
    /// A sweep that is repacking.
    Repack(LineageId, SessionId),
    /// Where the slots of a pack lie since they were repacked.
    Moved(LineageId, PackName, u64),
    /// A pack.
    Pack(LineageId, SessionId, PackName),
    /// The second copy of a metadata pack.
    PackCopy(LineageId, SessionId, PackName),
    /// A journal entry of a stream (a lineage id, or the vault id).
    Journal([u8; 16], u64),
}

impl ObjectName {
    /// The object's path in the store.
    pub fn path(&self) -> Path {
        Path::from(self.to_string())
    }

    /// The first copy of the pack at `place`, which a map of `own` names.
    pub(crate) fn pack(own: LineageId, place: &PackPlace) -> Self {
        Self::Pack(place.lineage.unwrap_or(own), place.session, place.name)
    }

    /// What the object at `path` is; `None` when no object of a vault has this name.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match parts.as_slice() {
            ["vault"] => Self::Vault,
            ["keys", domain, epoch, wrap] if is_hex16(wrap) => Self::Key {
                domain: domain.parse().ok()?,
                epoch: u32::try_from(number(epoch)?).ok()?,
                wrap: (*wrap).to_owned(),
            },
            ["keys", domain, epoch, "destroyed"] => Self::KeyDestroyed {
                domain: domain.parse().ok()?,
                epoch: u32::try_from(number(epoch)?).ok()?,
            },
            ["keys", "rotations", ids] if is_hex16(ids) => Self::Rotation((*ids).to_owned()),
            ["names", hash] if is_hex16(hash) => Self::Name((*hash).to_owned()),
            ["points", lineage, n] => Self::Point(lineage.parse().ok()?, positive(n)?),
            ["heads", lineage] => Self::Head(lineage.parse().ok()?),
            ["retired", lineage, k] => Self::Retired(lineage.parse().ok()?, positive(k)?.0),
            ["sessions", session, "open"] => Self::Session(session.parse().ok()?),
            ["sessions", session, stage] => {
                number(stage.strip_prefix("stage-")?)?;
                Self::Stage(session.parse().ok()?, (*stage).to_owned())
            }
            ["forgets", lineage, n] => match n.split_once('-') {
                None => Self::Forget(lineage.parse().ok()?, positive(n)?),
                Some((n, g)) => {
                    let g = u32::try_from(number(g)?).ok().filter(|&g| g > 1)?;
                    Self::Mark(lineage.parse().ok()?, positive(n)?, g)
                }
            },
            ["pins", lineage, n, id] => {
                Self::Pin(lineage.parse().ok()?, positive(n)?, id.parse::<SessionId>().ok()?.0)
            }
            ["sweep", lineage, "plan", sweep, part] => {
                Self::Plan(lineage.parse().ok()?, sweep.parse().ok()?, u32::try_from(number(part)?).ok()?)
            }
            ["sweep", lineage, "worn", session, pack] => {
                Self::Worn(lineage.parse().ok()?, session.parse().ok()?, pack.parse().ok()?)
            }
            ["sweep", lineage, "repack", sweep] => Self::Repack(lineage.parse().ok()?, sweep.parse().ok()?),
            ["moved", lineage, pack, k] => {
                Self::Moved(lineage.parse().ok()?, pack.parse().ok()?, positive(k)?.0)
            }
            ["packs", lineage, session, name] => {
                let (lineage, session) = (lineage.parse().ok()?, session.parse().ok()?);
                match name.strip_suffix(".copy") {
                    Some(name) => Self::PackCopy(lineage, session, name.parse().ok()?),
                    None => Self::Pack(lineage, session, name.parse().ok()?),
                }
            }
            ["journal", stream, n] => Self::Journal(stream.parse::<LineageId>().ok()?.0, positive(n)?.0),
            _ => return None,
        })
    }
}

/// The highest taken number of a row without gaps, searched upwards from `known`, which is taken or 0.
///
/// Asks a number of times that grows with the logarithm of how far it is.
pub(crate) fn highest_taken(
    known: u64,
    taken: impl Fn(u64) -> Result<bool, VaultError>,
) -> Result<u64, VaultError> {
    // `low` is taken (or 0), `high` is free.
    let (mut low, mut step) = (known, 1_u64);
    let mut high = loop {
        let probe = low.saturating_add(step);
        if !taken(probe)? {
            break probe;
        }
        (low, step) = (probe, step.saturating_mul(2));
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if taken(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

/// A decimal number without leading zeros or sign.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn positive(text: &str) -> Option<PointNumber> {
    number(text).filter(|&n| n > 0).map(PointNumber)
}

fn is_hex16(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str("vault"),
            Self::Key { domain, epoch, wrap } => write!(f, "keys/{domain}/{epoch}/{wrap}"),
            Self::KeyDestroyed { domain, epoch } => write!(f, "keys/{domain}/{epoch}/destroyed"),
            Self::Rotation(ids) => write!(f, "keys/rotations/{ids}"),
            Self::Name(hash) => write!(f, "names/{hash}"),
            Self::Point(lineage, n) => write!(f, "points/{lineage}/{n}"),
            Self::Head(lineage) => write!(f, "heads/{lineage}"),
            Self::Retired(lineage, k) => write!(f, "retired/{lineage}/{k}"),
            Self::Session(session) => write!(f, "sessions/{session}/open"),
            Self::Stage(session, stage) => write!(f, "sessions/{session}/{stage}"),
            Self::Forget(lineage, n) => write!(f, "forgets/{lineage}/{n}"),
            Self::Mark(lineage, n, g) => write!(f, "forgets/{lineage}/{n}-{g}"),
            Self::Pin(lineage, n, id) => write!(f, "pins/{lineage}/{n}/{}", SessionId(*id)),
            Self::Plan(lineage, sweep, part) => write!(f, "sweep/{lineage}/plan/{sweep}/{part}"),
            Self::Worn(lineage, session, pack) => write!(f, "sweep/{lineage}/worn/{session}/{pack}"),
            Self::Repack(lineage, sweep) => write!(f, "sweep/{lineage}/repack/{sweep}"),
            Self::Moved(lineage, pack, k) => write!(f, "moved/{lineage}/{pack}/{k}"),
            Self::Pack(lineage, session, name) => write!(f, "packs/{lineage}/{session}/{name}"),
            Self::PackCopy(lineage, session, name) => write!(f, "packs/{lineage}/{session}/{name}.copy"),
            Self::Journal(stream, n) => write!(f, "journal/{}/{n}", LineageId(*stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_taken_number_is_found_from_anywhere_below() {
        for highest in 0..70 {
            for known in 0..=highest {
                assert_eq!(highest_taken(known, |n| Ok(n <= highest)).unwrap(), highest);
            }
        }
    }

    #[test]
    fn every_name_parses_to_itself_and_nothing_near_it_parses() {
        let (lineage, session) = (LineageId([1; 16]), SessionId([2; 16]));
        let wrap = "ab".repeat(16);
        for name in [
            ObjectName::Vault,
            ObjectName::Key { domain: DomainId([3; 16]), epoch: 0, wrap: wrap.clone() },
            ObjectName::KeyDestroyed { domain: DomainId([3; 16]), epoch: 7 },
            ObjectName::Rotation("0f".repeat(16)),
            ObjectName::Name(wrap),
            ObjectName::Point(lineage, PointNumber(1)),
            ObjectName::Head(lineage),
            ObjectName::Retired(lineage, 12),
            ObjectName::Session(session),
            ObjectName::Stage(session, "stage-0".to_owned()),
            ObjectName::Forget(lineage, PointNumber(u64::MAX)),
            ObjectName::Mark(lineage, PointNumber(7), 2),
            ObjectName::Pin(lineage, PointNumber(7), [5; 16]),
            ObjectName::Plan(lineage, session, 0),
            ObjectName::Worn(lineage, session, PackName([4; 16])),
            ObjectName::Repack(lineage, session),
            ObjectName::Moved(lineage, PackName([4; 16]), 1),
            ObjectName::Pack(lineage, session, PackName([4; 16])),
            ObjectName::PackCopy(lineage, session, PackName([4; 16])),
            ObjectName::Journal([9; 16], 3),
        ] {
            let text = name.to_string();
            assert_eq!(ObjectName::parse(&text), Some(name));
            for near in [
                format!("{text}/"),
                format!("/{text}"),
                format!("{text}x"),
                text.to_uppercase(),
                format!("{text}.copy.copy"),
            ] {
                assert_eq!(ObjectName::parse(&near), None, "{near}");
            }
        }
        for bad in [
            "",
            "points",
            "points/x/1",
            &format!("points/{lineage}/01"),
            &format!("points/{lineage}/0"),
            &format!("points/{lineage}/+1"),
            &format!("forgets/{lineage}/3-1"),
            &format!("forgets/{lineage}/3-02"),
        ] {
            assert_eq!(ObjectName::parse(bad), None, "{bad}");
        }
    }
}
