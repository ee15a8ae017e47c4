//! The permits with which the content of points may be read.

use vmkeep_model::{Denied, Permit, VmName, op};

/// Leave to read the content of points: to restore it, to check it, or to back up on top of it.
///
/// What is read with leave to check or to back up is not given away by the functions that ask for it.
pub trait Reading: sealed::Sealed {
    /// Refuses the points of a VM that the leave is not for.
    fn check_reading(&self, vm: &VmName) -> Result<(), Denied>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! reading {
    ($($op:ident)*) => {
        $(
            impl sealed::Sealed for Permit<op::$op> {}

            impl Reading for Permit<op::$op> {
                fn check_reading(&self, vm: &VmName) -> Result<(), Denied> {
                    self.check(vm)
                }
            }
        )*
    };
}

reading!(Restore Verify Backup);
