//! What a VM is, as far as its protection is concerned.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{DiskName, VmName};

/// Most disks of one VM. Azure's largest sizes carry 64 data disks beside the OS and the temporary disk.
pub const DISKS_MAX: usize = 256;

/// What a disk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskRole {
    /// The disk the VM boots from.
    Os,
    /// A disk that keeps data.
    Data,
    /// Scratch space that the platform may lose: described in the point, never stored.
    Temporary,
}

/// A text is not a disk role.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a disk role; write os, data or temp")]
pub struct DiskRoleError(pub String);

impl FromStr for DiskRole {
    type Err = DiskRoleError;

    fn from_str(text: &str) -> Result<Self, DiskRoleError> {
        match text {
            "os" => Ok(Self::Os),
            "data" => Ok(Self::Data),
            "temp" => Ok(Self::Temporary),
            _ => Err(DiskRoleError(text.to_owned())),
        }
    }
}

impl fmt::Display for DiskRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Os => "os",
            Self::Data => "data",
            Self::Temporary => "temp",
        })
    }
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDescription {
    /// Its name, unique within the VM.
    pub name: DiskName,
    /// What it is for.
    pub role: DiskRole,
    /// Its logical unit number, unique among the disks that have one; `None` when the platform gives none.
    pub lun: Option<u32>,
}

/// Why a list of disks does not describe a VM.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VmDescriptionError {
    /// No disks.
    #[error("VM {0} has no disks")]
    NoDisks(VmName),
    /// More than [`DISKS_MAX`].
    #[error("VM {vm} has {count} disks; {DISKS_MAX} is the most")]
    TooManyDisks {
        /// The VM.
        vm: VmName,
        /// How many.
        count: usize,
    },
    /// Two disks of one name, or of names that differ only by case and would be one file on some systems.
    #[error("VM {vm} has two disks named {disk} (case does not count)")]
    DiskTwice {
        /// The VM.
        vm: VmName,
        /// The second of them.
        disk: DiskName,
    },
    /// Two disks with one LUN.
    #[error("VM {vm}: disk {disk} has LUN {lun}, which another disk has")]
    LunTwice {
        /// The VM.
        vm: VmName,
        /// The second of them.
        disk: DiskName,
        /// The LUN.
        lun: u32,
    },
    /// Two disks to boot from.
    #[error("VM {vm}: {disk} is a second OS disk")]
    OsTwice {
        /// The VM.
        vm: VmName,
        /// The second of them.
        disk: DiskName,
    },
}

/// A VM: its name and its disks, checked against one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDescription {
    name: VmName,
    disks: Vec<DiskDescription>,
}

impl VmDescription {
    /// A VM of these disks, in this order.
    pub fn new(name: VmName, disks: Vec<DiskDescription>) -> Result<Self, VmDescriptionError> {
        if disks.is_empty() {
            return Err(VmDescriptionError::NoDisks(name));
        }
        if disks.len() > DISKS_MAX {
            return Err(VmDescriptionError::TooManyDisks { vm: name, count: disks.len() });
        }
        let (mut names, mut luns, mut os) = (BTreeSet::new(), BTreeSet::new(), false);
        for disk in &disks {
            let (vm, name) = (name.clone(), disk.name.clone());
            if !names.insert(disk.name.as_str().to_ascii_lowercase()) {
                return Err(VmDescriptionError::DiskTwice { vm, disk: name });
            }
            if let Some(lun) = disk.lun.filter(|&lun| !luns.insert(lun)) {
                return Err(VmDescriptionError::LunTwice { vm, disk: name, lun });
            }
            if disk.role == DiskRole::Os && std::mem::replace(&mut os, true) {
                return Err(VmDescriptionError::OsTwice { vm, disk: name });
            }
        }
        Ok(Self { name, disks })
    }

    /// Its name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Its disks, one to [`DISKS_MAX`].
    pub fn disks(&self) -> &[DiskDescription] {
        &self.disks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, role: DiskRole, lun: Option<u32>) -> DiskDescription {
        DiskDescription { name: name.parse().unwrap(), role, lun }
    }

    #[test]
    fn disks_that_contradict_one_another_are_refused() {
        let vm = |disks| VmDescription::new("web".parse().unwrap(), disks);
        assert!(matches!(vm(vec![]), Err(VmDescriptionError::NoDisks(_))));
        let twice = vec![disk("os", DiskRole::Os, None), disk("OS", DiskRole::Data, None)];
        assert!(matches!(vm(twice), Err(VmDescriptionError::DiskTwice { .. })));
        let luns = vec![disk("a", DiskRole::Data, Some(1)), disk("b", DiskRole::Data, Some(1))];
        assert!(matches!(vm(luns), Err(VmDescriptionError::LunTwice { lun: 1, .. })));
        let two_os = vec![disk("a", DiskRole::Os, None), disk("b", DiskRole::Os, None)];
        assert!(matches!(vm(two_os), Err(VmDescriptionError::OsTwice { .. })));
        let many = (0..=DISKS_MAX).map(|i| disk(&format!("d{i}"), DiskRole::Data, None)).collect();
        assert!(matches!(vm(many), Err(VmDescriptionError::TooManyDisks { count: 257, .. })));
    }
}
