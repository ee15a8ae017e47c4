//! Sizes as people write and read them.

use indicatif::BinaryBytes;

/// A number of bytes with an optional K, M, G or T (also KiB and so on), in powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size; write bytes, or a number with K, M, G or T (powers of 1024)");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches("iB") {
        "" if unit.is_empty() => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// `bytes` with a binary unit.
pub(crate) fn show(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_at_most_one_unit() {
        for (text, bytes) in
            [("0", 0), ("65536", 65_536), ("64K", 65_536), ("64KiB", 65_536), ("3T", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "K", "-1", "1.5G", "1KB", "1k", "iB", "1iB", "1KiBiB2", "99999999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
