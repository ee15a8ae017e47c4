//! What is known of the changes of a disk, as it is written on the command line.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::Path;

use vmkeep::backup::{Changes, Rounds};
use vmkeep::blockdiff::{AuditRate, ChangeSource, DirtyBitmap, ExtentList};
use vmkeep::disk::{BlockRead, RawFile, read_bitmap};
use vmkeep::model::{DiskName, PointNumber};

use crate::disk_arg::{DiskArg, DiskFrom};
use crate::error::{Error, chain};

/// `[DISK=]VALUE[,since=N]`. What stands before `=` is a disk only when there is one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrackingArg {
    text: String,
    since: Option<PointNumber>,
}

/// What is known of a disk's changes.
#[derive(Debug)]
pub(crate) enum Known {
    By(Box<dyn ChangeSource>, Option<PointNumber>),
    Lost(String),
}

impl Known {
    pub(crate) fn changes(&self) -> Changes<'_> {
        match self {
            Self::By(by, since) => Changes::Known { by: &**by, since: *since },
            Self::Lost(why) => Changes::Lost(why),
        }
    }
}

pub(crate) fn parse(text: &str) -> Result<TrackingArg, String> {
    let (text, since) = match text.rsplit_once(",since=") {
        None => (text, None),
        Some((text, number)) => {
            let number = number.parse().ok().filter(|number| *number > 0);
            (text, Some(number.ok_or_else(|| "since= takes the number of a point".to_owned())?))
        }
    };
    if text.is_empty() {
        return Err("write [DISK=]VALUE[,since=N]".to_owned());
    }
    Ok(TrackingArg { text: text.to_owned(), since: since.map(PointNumber) })
}

/// Reads `none`, `F%`, or `P%ofM%`.
pub(crate) fn rate(text: &str) -> Result<AuditRate, String> {
    let wrong = || format!("{text:?} is no audit rate; write 1%, 99%of1% or none");
    let percent = |text: &str| -> Result<f64, String> {
        let number: f64 = text.trim().strip_suffix('%').and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        if (0.0..=100.0).contains(&number) { Ok(number / 100.0) } else { Err(wrong()) }
    };
    match (text, text.split_once("of")) {
        ("none", _) => Ok(AuditRate::None),
        (_, None) => Ok(AuditRate::Fraction(percent(text)?)),
        (_, Some((probability, missed))) => {
            let (probability, missed) = (percent(probability)?, percent(missed)?);
            if missed == 0.0 {
                return Err(wrong());
            }
            Ok(AuditRate::Detect { missed, probability })
        }
    }
}

/// Reads a number of runs, or `off`.
pub(crate) fn rounds(text: &str) -> Result<Rounds, String> {
    if text == "off" {
        return Ok(Rounds::Off);
    }
    let runs: Result<NonZeroU32, _> = text.parse();
    runs.map(Rounds::Runs).map_err(|_| format!("{text:?} is no number of runs; write at least 1, or off"))
}

/// What the arguments say of the disk called `name`; the first of them that is about it counts.
pub(crate) fn known(
    extents: &[TrackingArg],
    bitmaps: &[TrackingArg],
    disks: &[DiskArg],
    disk: &DiskArg,
    image: &dyn BlockRead,
) -> Result<Option<Known>, Error> {
    let name = &disk.description.name;
    if let Some((file, since)) = about(extents, disks, name)? {
        return listed(Path::new(file), since, image).map(Some);
    }
    match (about(bitmaps, disks, name)?, &disk.from) {
        (Some((bitmap, since)), DiskFrom::Path { path, .. }) => Ok(Some(recorded(path, bitmap, since))),
        _ => Ok(None),
    }
}

/// The value that is about the disk `name`, and since when.
fn about<'a>(
    args: &'a [TrackingArg],
    disks: &[DiskArg],
    name: &DiskName,
) -> Result<Option<(&'a str, Option<PointNumber>)>, Error> {
    for arg in args {
        let named = arg
            .text
            .split_once('=')
            .filter(|(disk, _)| disks.iter().any(|known| known.description.name.as_str() == *disk));
        match named {
            Some((disk, value)) if disk == name.as_str() => return Ok(Some((value, arg.since))),
            Some(_) => {}
            None if disks.len() == 1 => return Ok(Some((&arg.text, arg.since))),
            None => {
                let what =
                    format!("{:?} does not say which disk it is about; write DISK={}", arg.text, arg.text);
                return Err(Error::usage(what));
            }
        }
    }
    Ok(None)
}

fn listed(path: &Path, since: Option<PointNumber>, image: &dyn BlockRead) -> Result<Known, Error> {
    let file = File::open(path).map_err(|source| Error::File {
        what: "read the changed extents in",
        path: path.to_owned(),
        source,
    })?;
    Ok(match ExtentList::read_json(file, image.len()) {
        Ok(list) => Known::By(Box::new(list), since),
        Err(e) => Known::Lost(format!("{}: {}", path.display(), chain(&e).join(": "))),
    })
}

fn recorded(path: &Path, name: &str, since: Option<PointNumber>) -> Known {
    match bitmap(path, name) {
        Ok(bitmap) => Known::By(Box::new(bitmap), since),
        Err(why) => Known::Lost(format!("bitmap {name:?}: {why}")),
    }
}

fn bitmap(path: &Path, name: &str) -> Result<DirtyBitmap, String> {
    let file = RawFile::open(path).map_err(|e| chain(&e).join(": "))?;
    let bitmap = read_bitmap(&file, name).map_err(|e| chain(&e).join(": "))?;
    if !bitmap.info().recording {
        return Err("it is disabled: changes since then are not in it".to_owned());
    }
    DirtyBitmap::try_from(&bitmap).map_err(|e| chain(&e).join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(rate("none").unwrap(), AuditRate::None);
        assert_eq!(rate("25%").unwrap(), AuditRate::Fraction(0.25));
        let found = rate("99%of1%").unwrap();
        assert_eq!(found, AuditRate::Detect { missed: 0.01, probability: 0.99 });
        for wrong in ["", "1", "101%", "-1%", "99%of", "of1%", "99%of0%", "many"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rounds("off").unwrap(), Rounds::Off);
        assert!(rounds("0").is_err() && rounds("-1").is_err() && rounds("7").is_ok());
    }

    #[test]
    fn a_value_may_name_its_disk_and_its_point() {
        let disk = |text: &str| crate::disk_arg::parse(text).unwrap();
        let (one, two) = (vec![disk("os=a")], vec![disk("os=a"), disk("data=b")]);
        let name = |text: &str| text.parse::<DiskName>().unwrap();
        let arg = |text: &str| vec![parse(text).unwrap()];
        let found = arg("b=c.json,since=4");
        assert_eq!(about(&found, &one, &name("os")).unwrap(), Some(("b=c.json", Some(PointNumber(4)))));
        let found = arg("data=c.json");
        assert_eq!(about(&found, &two, &name("os")).unwrap(), None);
        assert_eq!(about(&found, &two, &name("data")).unwrap(), Some(("c.json", None)));
        assert!(about(&arg("c.json"), &two, &name("os")).is_err());
        assert!(parse("x,since=0").is_err() && parse("x,since=y").is_err() && parse("").is_err());
    }
}
