//! Protection of virtual machines.
