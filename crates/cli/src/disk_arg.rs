//! `--disk NAME=PATH,...`: one disk of the VM, as it is written on the command line.

use std::path::PathBuf;

use vmkeep::disk::Format;
use vmkeep::model::{ByteLen, DiskDescription, DiskName, DiskRole};

use crate::bytes;

/// A disk to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DiskArg {
    pub(crate) description: DiskDescription,
    pub(crate) from: DiskFrom,
}

/// Where its content, or at least its size, is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DiskFrom {
    /// An image or a device. Of a temporary disk only the size is looked at.
    Path { path: PathBuf, format: Option<Format> },
    /// A temporary disk of this size, of which nothing is here.
    Size(ByteLen),
}

/// Reads `NAME=PATH[,role=..][,lun=..][,format=..]`, or `NAME,role=temp,size=..`.
///
/// Two commas stand for one that belongs to the path.
pub(crate) fn parse(text: &str) -> Result<DiskArg, String> {
    let mut parts = split(text).into_iter();
    let head = parts.next().unwrap_or_default();
    let (name, path) = match head.split_once('=') {
        Some((name, path)) => (name.to_owned(), Some(path.to_owned())),
        None => (head, None),
    };
    let name: DiskName = name.parse().map_err(|e: vmkeep::model::NameError| e.to_string())?;

    let (mut role, mut lun, mut format, mut size) = (None, None, None, None);
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((&part, ""));
        let twice = match key {
            "role" => role.replace(value.parse::<DiskRole>().map_err(|e| e.to_string())?).is_some(),
            "lun" => lun
                .replace(value.parse::<u32>().map_err(|_| format!("{value:?} is not a LUN; write a number"))?)
                .is_some(),
            "format" => format.replace(parse_format(value)?).is_some(),
            "size" => size.replace(bytes::parse(value)?).is_some(),
            _ => {
                return Err(format!(
                    "{part:?} is not an option of a disk; known are role, lun, format and size, and a comma in a path \
                     is written twice"
                ));
            }
        };
        if twice {
            return Err(format!("{key} is given twice"));
        }
    }

    let role = role.unwrap_or(DiskRole::Data);
    let from = match (path, size) {
        (Some(path), None) if !path.is_empty() => DiskFrom::Path { path: path.into(), format },
        (None, Some(size)) if role == DiskRole::Temporary && format.is_none() => {
            DiskFrom::Size(ByteLen(size))
        }
        (None, Some(_)) => return Err("size without a path is for disks with role=temp only".to_owned()),
        (Some(_), Some(_)) => {
            return Err("a disk with a path has its size from there; leave size out".to_owned());
        }
        (Some(_), None) => return Err(format!("disk {name} has an empty path; write {name}=PATH")),
        (None, None) => return Err(format!("disk {name} has no path; write {name}=PATH")),
    };
    Ok(DiskArg { description: DiskDescription { name, role, lun }, from })
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        "vhd" => Ok(Format::Vhd),
        _ => Err(format!("{text:?} is not a disk format; write raw, qcow2 or vhd")),
    }
}

/// The parts between single commas, with double ones made single.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            (',', Some(last)) if chars.next_if_eq(&',').is_some() => last.push(','),
            (',', _) | (_, None) => parts.push(String::new()),
            (c, Some(last)) => last.push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_name_a_path_and_options() {
        let disk = parse("os=/dev/sda,role=os,lun=0,format=raw").unwrap();
        assert_eq!((disk.description.name.as_str(), disk.description.role), ("os", DiskRole::Os));
        assert_eq!(disk.description.lun, Some(0));
        assert_eq!(disk.from, DiskFrom::Path { path: "/dev/sda".into(), format: Some(Format::Raw) });

        let disk = parse("d=a,,b=c.raw").unwrap();
        assert_eq!(disk.description.role, DiskRole::Data);
        assert_eq!(disk.from, DiskFrom::Path { path: "a,b=c.raw".into(), format: None });

        let disk = parse("scratch,role=temp,size=16G").unwrap();
        assert_eq!(disk.from, DiskFrom::Size(ByteLen(16 << 30)));
    }

    #[test]
    fn what_is_not_a_disk_is_refused() {
        for bad in [
            "",
            "=x",
            "os",
            "os=",
            "../x=y",
            "os=x,role=boot",
            "os=x,lun=-1",
            "os=x,lun=",
            "os=x,format=vmdk",
            "os=x,size=1G",
            "os,size=1G",
            "os,role=temp",
            "os=x,role=os,role=os",
            "os=x,nonsense",
            "os=x,",
            "os,role=temp,size=1G,format=raw",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
