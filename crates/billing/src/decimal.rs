//! Numbers of a bill: decimals as written, and the one place where an exact amount is rounded.

use std::fmt;
use std::str::FromStr;

use num_bigint::BigInt;
use num_rational::BigRational;
use thiserror::Error;

/// An exact amount of money, in major units of the currency.
pub type Amount = BigRational;

/// Why a text cannot be a price, a factor or a percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecimalError {
    /// Not a decimal number.
    #[error("not a decimal number such as 0.0224")]
    Syntax,
    /// Below zero.
    #[error("negative")]
    Negative,
    /// More digits than [`Decimal`] has.
    #[error("more than 12 digits before or after the decimal point")]
    Digits,
}

/// A decimal from 0 to below 10^12 with up to 12 digits after the point, kept exactly.
///
/// ```
/// # use vmkeep_billing::Decimal;
/// let price: Decimal = "0.0224".parse()?;
/// assert_eq!(price.to_string(), "0.0224");
/// assert_eq!("2.24e-2".parse(), Ok(price)); // as JSON may write it
/// # Ok::<(), vmkeep_billing::DecimalError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(u128);

/// Digits after the point.
const SCALE: i32 = 12;
const ONE: u128 = 1_000_000_000_000;
const LIMIT: u128 = ONE * ONE;
/// Longest text looked at.
const TEXT_MAX: usize = 64;

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// One.
    pub const ONE: Self = Self(ONE);

    /// The value times 10^12.
    pub fn scaled(self) -> u128 {
        self.0
    }

    /// The value times 10^6 where that is whole, for units.
    pub(crate) fn micros(self) -> Option<u64> {
        let step = ONE / 1_000_000;
        self.0.is_multiple_of(step).then(|| u64::try_from(self.0 / step).ok()).flatten()
    }

    /// The value as an exact fraction.
    pub fn to_amount(self) -> Amount {
        Amount::new(BigInt::from(self.0), BigInt::from(ONE))
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        if let Some(positive) = text.strip_prefix('-') {
            return match unsigned(positive)? {
                Self::ZERO => Ok(Self::ZERO),
                _ => Err(DecimalError::Negative),
            };
        }
        unsigned(text)
    }
}

fn unsigned(text: &str) -> Result<Decimal, DecimalError> {
    if text.len() > TEXT_MAX {
        return Err(DecimalError::Digits);
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i8>().map_err(|_| DecimalError::Syntax)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction_given = mantissa.contains('.');
    if whole.is_empty() || (fraction_given && fraction.is_empty()) {
        return Err(DecimalError::Syntax);
    }
    let digits = whole.bytes().chain(fraction.bytes());
    let mut value: u128 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(DecimalError::Syntax);
        }
        value = value.checked_mul(10).ok_or(DecimalError::Digits)?;
        value = value.checked_add(u128::from(digit - b'0')).ok_or(DecimalError::Digits)?;
    }
    let places = i32::try_from(fraction.len()).map_err(|_| DecimalError::Digits)? - i32::from(exponent);
    let shift = 10_u128.checked_pow((SCALE - places).unsigned_abs()).ok_or(DecimalError::Digits);
    let value = match (value, places <= SCALE) {
        (0, _) => 0,
        (value, true) => value.checked_mul(shift?).ok_or(DecimalError::Digits)?,
        (value, false) if value % shift? == 0 => value / shift?,
        _ => return Err(DecimalError::Digits),
    };
    if value < LIMIT { Ok(Decimal(value)) } else { Err(DecimalError::Digits) }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / ONE, self.0 % ONE);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:012}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// How an exact amount becomes minor units of its currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest; a half goes to the even neighbour.
    #[default]
    HalfEven,
    /// To the nearest; a half goes away from zero.
    HalfUp,
    /// Away from zero.
    Up,
    /// Towards zero.
    Down,
}

impl Rounding {
    /// All of them, with their names.
    pub const NAMES: [(Self, &'static str); 4] =
        [(Self::HalfEven, "half-even"), (Self::HalfUp, "half-up"), (Self::Up, "up"), (Self::Down, "down")];

    /// The rule of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, n)| *n == name).map(|(rule, _)| rule)
    }

    /// `amount` times 10^`digits` as a whole number. `None` when it does not fit 128 bits.
    pub fn apply(self, amount: &Amount, digits: u16) -> Option<i128> {
        let scaled = amount * Amount::from(BigInt::from(10).pow(u32::from(digits)));
        let whole = match self {
            // num rounds a half away from zero.
            Self::HalfUp => scaled.round(),
            Self::Down => scaled.trunc(),
            Self::Up if scaled < Amount::from(BigInt::ZERO) => scaled.floor(),
            Self::Up => scaled.ceil(),
            Self::HalfEven => {
                let two = BigInt::from(2);
                let half = Amount::new(BigInt::from(1), two.clone());
                let below = scaled.floor();
                if &scaled - &below == half {
                    if below.numer() % &two == BigInt::ZERO { below } else { scaled.ceil() }
                } else {
                    scaled.round()
                }
            }
        };
        i128::try_from(whole.to_integer()).ok()
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(rule, _)| rule == self).map_or("", |(_, name)| *name);
        f.write_str(name)
    }
}

/// A whole number of minor units as a decimal: 1234 with two digits is `12.34`.
pub(crate) fn minor_text(minor: i128, digits: u16) -> String {
    let digits = usize::from(digits);
    let sign = if minor < 0 { "-" } else { "" };
    let text = format!("{:0width$}", minor.unsigned_abs(), width = digits + 1);
    let (whole, fraction) = text.split_at(text.len() - digits);
    if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// `amount` cut to `digits` places, for showing a quantity.
pub(crate) fn shown(amount: &Amount, digits: u16) -> String {
    Rounding::HalfEven.apply(amount, digits).map_or_else(|| amount.to_string(), |n| minor_text(n, digits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fraction(n: i128, d: i128) -> Amount {
        Amount::new(n.into(), d.into())
    }

    proptest! {
        #[test]
        fn a_decimal_reads_back_as_written(scaled in 0..LIMIT) {
            let value = Decimal(scaled);
            prop_assert_eq!(value.to_string().parse::<Decimal>(), Ok(value));
        }

        #[test]
        fn any_text_gives_a_number_or_an_error(text in "[-+0-9.eE]{0,70}") {
            let _ = text.parse::<Decimal>().map(|d| d.to_string());
        }

        #[test]
        fn rounding_is_nearest_and_symmetric(n in -100_000_i128..100_000, d in 1_i128..1000) {
            for (rule, _) in Rounding::NAMES {
                let rounded = rule.apply(&fraction(n, d), 0).unwrap();
                prop_assert_eq!(rule.apply(&fraction(-n, d), 0), Some(-rounded));
                let off = (rounded * d - n).abs();
                match rule {
                    Rounding::HalfEven | Rounding::HalfUp => prop_assert!(2 * off <= d),
                    Rounding::Up => prop_assert!(off < d && rounded.abs() * d >= n.abs()),
                    Rounding::Down => prop_assert!(off < d && rounded.abs() * d <= n.abs()),
                }
            }
        }
    }

    #[test]
    fn texts_that_are_no_price_say_why() {
        let check = |text: &str, expected| assert_eq!(text.parse::<Decimal>(), Err(expected), "{text}");
        check("-0.01", DecimalError::Negative);
        check("1234567890123456789012345678901234567890", DecimalError::Digits);
        check("1000000000000", DecimalError::Digits);
        check("0.0000000000001", DecimalError::Digits);
        check("1e99", DecimalError::Digits);
        for text in ["", ".", "1.", ".5", "1,5", "0x1", "NaN", "1e", "--1", "+1", "١"] {
            check(text, DecimalError::Syntax);
        }
    }

    #[test]
    fn halves_go_where_the_rule_says() {
        let at = |rule: Rounding, n| rule.apply(&fraction(n, 200), 2).unwrap();
        assert_eq!([1, 3, 5].map(|n| at(Rounding::HalfEven, n)), [0, 2, 2]);
        assert_eq!([1, 3, 5].map(|n| at(Rounding::HalfUp, n)), [1, 2, 3]);
    }

    #[test]
    fn minor_units_are_shown_with_their_digits() {
        assert_eq!(minor_text(1234, 2), "12.34");
        assert_eq!(minor_text(-5, 2), "-0.05");
        assert_eq!(minor_text(7, 0), "7");
        assert_eq!(minor_text(7, 3), "0.007");
    }
}
