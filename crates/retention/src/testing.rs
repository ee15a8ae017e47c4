//! What the tests of several modules share.

/// Zones with every habit: none, whole hours, half an hour, negative daylight saving, south of the equator, a day left out,
/// changes at midnight.
pub(crate) const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/Los_Angeles",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Asia/Kathmandu",
];
