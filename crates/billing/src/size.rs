//! The protected-instance size, and the units it counts as.
//!
//! The size is what the included disks really hold, not what they could hold, without the temporary disk
//! (<https://learn.microsoft.com/azure/backup/azure-backup-pricing>). With selected disks it depends on the policy
//! (<https://learn.microsoft.com/azure/backup/selective-disk-backup-restore>).

use thiserror::Error;
use vmkeep_model::DiskRole;

use crate::event::{DiskSize, Selection};

/// Which of the two measured sizes bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The blocks that are not zero.
    NonzeroBlocks,
    /// What the file systems say is in use. Every counted disk must have been measured.
    Filesystems,
    /// What the file systems say, and the blocks that are not zero for a disk whose file systems were not read.
    FilesystemsElseBlocks,
}

impl Measure {
    const NAMES: [(Self, &'static str); 3] = [
        (Self::NonzeroBlocks, "nonzero-blocks"),
        (Self::Filesystems, "filesystems"),
        (Self::FilesystemsElseBlocks, "filesystems-else-blocks"),
    ];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(measure, _)| *measure == self).map_or("", |(_, name)| name)
    }

    /// The measure of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, n)| *n == name).map(|(measure, _)| measure)
    }
}

/// Which disks of a VM with selected disks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRule {
    /// The OS disk when only it is included; otherwise every disk, included or not.
    Standard,
    /// The included disks.
    Enhanced,
}

impl DiskRule {
    const NAMES: [(Self, &'static str); 2] = [(Self::Standard, "standard"), (Self::Enhanced, "enhanced")];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(rule, _)| *rule == self).map_or("", |(_, name)| name)
    }

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, n)| *n == name).map(|(rule, _)| rule)
    }
}

/// How the size of an instance is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRule {
    /// Which size.
    pub measure: Measure,
    /// Of which disks.
    pub disks: DiskRule,
}

/// Why disks have no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// A disk that counts has no size of the kind that bills.
    #[error("disk {0} (counted from 0) has no measured size of the kind that bills")]
    NotMeasured(usize),
    /// The sizes add up to more than 2^64 bytes.
    #[error("the sizes of the disks add up to more than 2^64 bytes")]
    TooLarge,
    /// More disks than a VM can have.
    #[error("{0} disks are more than a VM can have")]
    TooManyDisks(usize),
}

/// The protected-instance size of a VM with these disks, in bytes.
///
/// ```
/// use vmkeep_billing::{DiskRule, DiskSize, Measure, Selection, SizeRule, instance_size};
/// use vmkeep_model::DiskRole;
///
/// let disk = |role, gib: u64| DiskSize {
///     role,
///     selection: Selection::Included,
///     nonzero_bytes: Some(gib << 30),
///     filesystem_bytes: None,
/// };
/// let disks =
///     [disk(DiskRole::Os, 17), disk(DiskRole::Temporary, 5), disk(DiskRole::Data, 30), disk(DiskRole::Data, 0)];
/// let rule = SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced };
/// assert_eq!(instance_size(&disks, rule), Ok(47 << 30));
/// ```
pub fn instance_size(disks: &[DiskSize], rule: SizeRule) -> Result<u64, SizeError> {
    if disks.len() > vmkeep_model::DISKS_MAX {
        return Err(SizeError::TooManyDisks(disks.len()));
    }
    let included = |d: &DiskSize| d.selection == Selection::Included;
    let data_included = disks.iter().any(|d| d.role == DiskRole::Data && included(d));
    let counts = |d: &DiskSize| match (d.role, rule.disks) {
        (DiskRole::Temporary, _) => false,
        (DiskRole::Data, DiskRule::Standard) => data_included,
        (DiskRole::Os, DiskRule::Standard) => data_included || included(d),
        (_, DiskRule::Enhanced) => included(d),
    };
    let mut total: u64 = 0;
    for (index, disk) in disks.iter().enumerate().filter(|(_, disk)| counts(disk)) {
        let bytes = match rule.measure {
            Measure::NonzeroBlocks => disk.nonzero_bytes,
            Measure::Filesystems => disk.filesystem_bytes,
            Measure::FilesystemsElseBlocks => disk.filesystem_bytes.or(disk.nonzero_bytes),
        };
        let bytes = bytes.ok_or(SizeError::NotMeasured(index))?;
        total = total.checked_add(bytes).ok_or(SizeError::TooLarge)?;
    }
    Ok(total)
}

/// A number of protected instances in millionths: half an instance is 500,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroUnits(pub u64);

/// Up to a size, so many units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// The largest size in the band, in bytes.
    pub up_to_bytes: u64,
    /// What it counts as.
    pub units: MicroUnits,
}

/// The bands of a price book: sizes ascend and units do not descend, so more data never counts as less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bands {
    list: Vec<Band>,
    step_bytes: u64,
    step_units: MicroUnits,
}

/// Why bands cannot rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BandError {
    /// No bands.
    #[error("there are no bands")]
    None,
    /// More than [`Bands::BANDS_MAX`].
    #[error("{0} bands are more than {max}", max = Bands::BANDS_MAX)]
    TooMany(usize),
    /// A band does not reach further than the one before.
    #[error("band {0} (counted from 0) does not reach further than the one before")]
    Order(usize),
    /// A band counts less than the one before.
    #[error("band {0} (counted from 0) counts less than the one before")]
    Descends(usize),
    /// Steps of no size.
    #[error("the further step has no size")]
    Step,
    /// Units beyond all measure.
    #[error("band {0} (counted from 0) counts more than a million units")]
    Units(usize),
    /// The largest size there can be would count more than 2^64 millionths.
    #[error("the further step is so small, or counts so much, that units could not be counted")]
    StepUnits,
}

/// How far a size is from counting more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextBand {
    /// What it counts as now.
    pub units: MicroUnits,
    /// Largest size that still counts as this.
    pub up_to_bytes: u64,
    /// What one byte more than that counts as.
    pub next_units: MicroUnits,
}

impl Bands {
    /// Most bands.
    pub const BANDS_MAX: usize = 64;
    /// Most units of a band or a step.
    const UNITS_MAX: u64 = 1_000_000_000_000;

    /// Bands, and what each begun `step_bytes` beyond the last of them adds.
    pub fn new(bands: Vec<Band>, step_bytes: u64, step_units: MicroUnits) -> Result<Self, BandError> {
        if bands.is_empty() {
            return Err(BandError::None);
        }
        if bands.len() > Self::BANDS_MAX {
            return Err(BandError::TooMany(bands.len()));
        }
        if step_bytes == 0 {
            return Err(BandError::Step);
        }
        for (index, pair) in bands.windows(2).enumerate() {
            if pair[1].up_to_bytes <= pair[0].up_to_bytes {
                return Err(BandError::Order(index + 1));
            }
            if pair[1].units < pair[0].units {
                return Err(BandError::Descends(index + 1));
            }
        }
        let units = bands.iter().map(|b| b.units).chain([step_units]);
        match units.enumerate().find(|(_, units)| units.0 > Self::UNITS_MAX) {
            Some((index, _)) => Err(BandError::Units(index)),
            None => {
                let bands = Self { list: bands, step_bytes, step_units };
                bands.beyond(u64::MAX).map(|_| bands).ok_or(BandError::StepUnits)
            }
        }
    }

    /// Azure's: half a unit up to 50 GB, one up to 500 GB, and one more for each begun 500 GB beyond.
    ///
    /// # Panics
    /// When `gigabyte` is below 10^6 or above 2^50.
    pub fn azure(gigabyte: u64) -> Self {
        assert!((1_000_000..=1 << 50).contains(&gigabyte), "a gigabyte of {gigabyte} bytes");
        let band = |gb: u64, units| Band { up_to_bytes: gb * gigabyte, units: MicroUnits(units) };
        Self {
            list: vec![band(50, 500_000), band(500, 1_000_000)],
            step_bytes: 500 * gigabyte,
            step_units: MicroUnits(1_000_000),
        }
    }

    /// What `size` bytes count as, exactly.
    ///
    /// ```
    /// # use vmkeep_billing::{Bands, MicroUnits};
    /// let bands = Bands::azure(1 << 30);
    /// assert_eq!(bands.units(50 << 30), MicroUnits(500_000));
    /// assert_eq!(bands.units((50 << 30) + 1), MicroUnits(1_000_000));
    /// assert_eq!(bands.units(501 << 30), MicroUnits(2_000_000));
    /// ```
    pub fn units(&self, size: u64) -> MicroUnits {
        match self.list.iter().find(|band| size <= band.up_to_bytes) {
            Some(band) => band.units,
            // That even the largest size can be counted was seen when the bands were made.
            None => self.beyond(size).unwrap_or(MicroUnits(u64::MAX)),
        }
    }

    /// What a size beyond the bands counts as, when that can be counted.
    fn beyond(&self, size: u64) -> Option<MicroUnits> {
        let last = self.list[self.list.len() - 1];
        let steps = size.saturating_sub(last.up_to_bytes).div_ceil(self.step_bytes);
        self.step_units.0.checked_mul(steps)?.checked_add(last.units.0).map(MicroUnits)
    }

    /// Whether `part` millionths of any units are whole millionths again.
    pub(crate) fn divides(&self, part: MicroUnits) -> bool {
        let mut units = self.list.iter().map(|band| band.units).chain([self.step_units]);
        units.all(|units| (u128::from(units.0) * u128::from(part.0)).is_multiple_of(1_000_000))
    }

    /// How far `size` is from counting more.
    pub fn next_band(&self, size: u64) -> NextBand {
        let last = self.list[self.list.len() - 1];
        let up_to_bytes = match self.list.iter().find(|band| size <= band.up_to_bytes) {
            Some(band) => band.up_to_bytes,
            None => {
                let steps = (size - last.up_to_bytes).div_ceil(self.step_bytes);
                last.up_to_bytes.saturating_add(self.step_bytes.saturating_mul(steps))
            }
        };
        let next_units = self.units(up_to_bytes.saturating_add(1));
        NextBand { units: self.units(size), up_to_bytes, next_units }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    proptest! {
        #[test]
        fn units_agree_with_counting_up_in_steps(size in 0_u64..5_000 * GIB) {
            let mut limit = 500 * GIB;
            let mut units = 1_000_000;
            while size > limit { limit += 500 * GIB; units += 1_000_000; }
            if size <= 50 * GIB { units = 500_000; }
            prop_assert_eq!(Bands::azure(GIB).units(size), MicroUnits(units));
        }

        #[test]
        fn more_data_never_counts_as_less(a in any::<u64>(), b in any::<u64>()) {
            let bands = Bands::azure(GIB);
            prop_assert!(bands.units(a.min(b)) <= bands.units(a.max(b)));
        }

        #[test]
        fn one_byte_past_the_band_counts_more(size in 0_u64..100_000 * GIB) {
            let bands = Bands::azure(GIB);
            let next = bands.next_band(size);
            prop_assert!(size <= next.up_to_bytes);
            prop_assert_eq!(bands.units(next.up_to_bytes), next.units);
            prop_assert!(next.next_units > next.units);
        }
    }

    #[test]
    fn sizes_at_the_edges_of_the_bands() {
        let bands = Bands::azure(GIB);
        let tenth_of_a_thousandth = GIB / 10_000;
        for (size, units) in [
            (0, 0.5),
            (50 * GIB, 0.5),
            (50 * GIB + tenth_of_a_thousandth, 1.0),
            (500 * GIB, 1.0),
            (500 * GIB + tenth_of_a_thousandth, 2.0),
            (501 * GIB, 2.0),
            (1000 * GIB, 2.0),
            (1300 * GIB, 3.0),
            (2000 * GIB, 4.0),
        ] {
            #[allow(clippy::cast_precision_loss)]
            let found = bands.units(size).0 as f64 / 1e6;
            assert!((found - units).abs() < 1e-9, "{size} bytes: {found}");
        }
    }

    #[test]
    fn selected_disks_count_by_the_policy() {
        use DiskRole::{Data, Os, Temporary};
        use Selection::{Excluded, Included};
        let disk = |role, selection, bytes| DiskSize {
            role,
            selection,
            nonzero_bytes: Some(bytes),
            filesystem_bytes: Some(bytes * 10),
        };
        let only_os = [disk(Os, Included, 1), disk(Data, Excluded, 2), disk(Temporary, Included, 4)];
        let with_data = [disk(Os, Included, 1), disk(Data, Included, 2), disk(Data, Excluded, 8)];
        let check = |disks: &[DiskSize], rule, expected| {
            let rule = SizeRule { measure: Measure::NonzeroBlocks, disks: rule };
            assert_eq!(instance_size(disks, rule), Ok(expected));
            let rule = SizeRule { measure: Measure::Filesystems, ..rule };
            assert_eq!(instance_size(disks, rule), Ok(10 * expected));
        };
        check(&only_os, DiskRule::Standard, 1);
        check(&only_os, DiskRule::Enhanced, 1);
        check(&with_data, DiskRule::Standard, 11);
        check(&with_data, DiskRule::Enhanced, 3);
    }

    #[test]
    fn a_size_that_was_not_measured_is_not_guessed() {
        let disk = |nonzero, filesystem| DiskSize {
            role: DiskRole::Os,
            selection: Selection::Included,
            nonzero_bytes: nonzero,
            filesystem_bytes: filesystem,
        };
        let size = |disk, measure| instance_size(&[disk], SizeRule { measure, disks: DiskRule::Enhanced });
        assert_eq!(size(disk(Some(5), None), Measure::Filesystems), Err(SizeError::NotMeasured(0)));
        assert_eq!(size(disk(Some(5), None), Measure::FilesystemsElseBlocks), Ok(5));
        assert_eq!(size(disk(Some(5), Some(3)), Measure::FilesystemsElseBlocks), Ok(3));
        assert_eq!(size(disk(None, None), Measure::NonzeroBlocks), Err(SizeError::NotMeasured(0)));
        let huge = disk(Some(u64::MAX), None);
        let rule = SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced };
        assert_eq!(instance_size(&[huge, huge], rule), Err(SizeError::TooLarge));
    }

    #[test]
    fn bands_out_of_order_are_refused() {
        let band = |bytes, units| Band { up_to_bytes: bytes, units: MicroUnits(units) };
        let check = |bands, step, expected| {
            assert_eq!(Bands::new(bands, step, MicroUnits(1)), Err(expected));
        };
        check(vec![], 1, BandError::None);
        check(vec![band(1, 1)], 0, BandError::Step);
        check(vec![band(2, 1), band(2, 1)], 1, BandError::Order(1));
        check(vec![band(2, 2), band(3, 1)], 1, BandError::Descends(1));
        check(vec![band(1, u64::MAX)], 1, BandError::Units(0));
        let tiny = Bands::new(vec![band(1, 1)], 1, MicroUnits(2));
        assert_eq!(tiny, Err(BandError::StepUnits), "2^64 steps of two millionths");
        let fits = Bands::new(vec![band(1, 1)], 1, MicroUnits(1)).unwrap();
        assert_eq!(fits.units(u64::MAX), MicroUnits(u64::MAX), "counted, not cut off");
    }
}
