//! Lengths of time as people write and read them.

/// Units by how a person writes them, in milliseconds, the longest first.
const UNITS: [(&str, i64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

/// A whole number with s, m, h or d, in milliseconds.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let wrong =
        || format!("{text:?} is not a length of time; write a number with s, m, h or d, such as 90m or 3d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: i64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*millis).ok_or_else(wrong)
}

/// Milliseconds in the longest unit of which it is at least one, rounded down.
pub(crate) fn show(millis: i64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| millis >= *unit);
    unit.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_whole_number_and_one_unit() {
        for (text, millis) in
            [("0m", 0), ("45s", 45_000), ("90m", 5_400_000), ("24h", 86_400_000), ("3d", 259_200_000)]
        {
            assert_eq!(parse(text), Ok(millis), "{text}");
        }
        for bad in ["", "0", "90", "m", "-1h", "1.5h", "1h30m", "1w", "1H", "1 h", "999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_shown_in_one_unit() {
        for (millis, text) in [(-5, "0s"), (999, "0s"), (1000, "1s"), (5_400_000, "1h"), (300_000_000, "3d")]
        {
            assert_eq!(show(millis), text);
        }
    }
}
