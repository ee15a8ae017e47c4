//! Readings for bills, taken after what changes them.

use vmkeep::model::{Op, Permit, VmName};
use vmkeep::protect::{Ledger, ProtectError, Protection};
use vmkeep::vault::Vault;

use crate::error::chain;
use crate::output;

/// Notes what is new of a VM that is under a policy, or was. That it cannot be noted fails nothing: the next reading makes it good.
pub(crate) fn read<O: Op>(vault: &Vault, permit: &Permit<O>, vm: &VmName) {
    if let Err(error) = noted(vault, permit, std::slice::from_ref(vm)) {
        output::warn(&format!("what happened to {vm} could not be noted for its bill"), &chain(&error));
    }
}

/// The same of all VMs that are under policies.
pub(crate) fn read_all<O: Op>(vault: &Vault, permit: &Permit<O>) {
    let all = || {
        let protection = Protection::open(vault)?;
        let vms: Vec<VmName> = protection.instances().map(|(vm, _)| vm.clone()).collect();
        noted(vault, permit, &vms)
    };
    if let Err(error) = all() {
        output::warn("what happened could not be noted for bills", &chain(&error));
    }
}

fn noted<O: Op>(vault: &Vault, permit: &Permit<O>, vms: &[VmName]) -> Result<(), ProtectError> {
    let protection = Protection::open(vault)?;
    let protected: Vec<_> =
        vms.iter().filter_map(|vm| Some((vm, protection.instance(vm).ok()?.state))).collect();
    if protected.is_empty() {
        return Ok(());
    }
    let mut ledger = Ledger::open(vault)?;
    for (vm, state) in protected {
        ledger.read(permit, vm, Some(state))?;
    }
    Ok(())
}
