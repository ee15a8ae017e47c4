//! A price book for tests.

/// Prices of a house of one's own, in TOML: instances at 10 a unit and month, by the day, and stored bytes. Tests that want it otherwise
/// replace what is in it.
pub const PRICE_BOOK: &str = r#"
    name = "house prices"
    currency = "EUR"
    zone = "Europe/Berlin"
    gigabyte = "GiB"
    rounding = "half-even"
    instance = { integration = "day", agentless_factor = "0.5", step_gb = 500, step_units = "1", bands = [
        { up_to_gb = 50, units = "0.5" }, { up_to_gb = 500, units = "1" } ] }
    storage = { integration = "exact", archive_days_min = 180 }
    soft_delete = { free_days = 14, free = "last" }
    price = [
        { meter = "instance", from = "2020-01-01", price = "10" },
        { meter = "vault", redundancy = "lrs", from = "2020-01-01", price = "0.0224" } ]
"#;
