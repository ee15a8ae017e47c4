//! Disks as the seam between a VM and its protection: reading, writing, image formats.
