//! Words of the command line: positions and `--option value`.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::failure::{Failure, Result};

#[derive(Debug)]
pub(crate) struct Args {
    positions: std::vec::IntoIter<String>,
    options: BTreeMap<String, String>,
}

impl Args {
    /// Splits `words`; every option takes a value and must be among `known`.
    pub(crate) fn parse(words: Vec<String>, known: &[&str]) -> Result<Self> {
        let (mut positions, mut options) = (Vec::new(), BTreeMap::new());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else {
                positions.push(word);
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, words.next()),
            };
            if !known.contains(&name) {
                return Err(Failure::new(format!("no such option: --{name}")));
            }
            let value = value.ok_or_else(|| Failure::new(format!("--{name} needs a value")))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self { positions: positions.into_iter(), options })
    }

    /// The next position, which must be there.
    pub(crate) fn position(&mut self, what: &str) -> Result<String> {
        self.positions.next().ok_or_else(|| Failure::new(format!("{what} is missing; see cargo xtask help")))
    }

    /// The value of an option.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// The value of an option as a number, or `default` when it is not given.
    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.option(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().map_err(|_| Failure::new(format!("--{name} {text}: not a number it can take")))
            }
        }
    }

    /// Refuses positions that nobody took.
    pub(crate) fn end(mut self) -> Result<()> {
        self.positions.next().map_or(Ok(()), |word| Err(Failure::new(format!("{word}: one word too many"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(ToOwned::to_owned).collect(), &["size", "seed"])
    }

    #[test]
    fn options_and_positions_mix() {
        let mut args = parse("--size 3 here --seed=9 there").unwrap();
        assert_eq!(args.position("DIR").unwrap(), "here");
        assert_eq!((args.number("size", 0).unwrap(), args.number("seed", 0).unwrap()), (3, 9));
        assert_eq!(args.position("DIR").unwrap(), "there");
        assert!(args.position("DIR").is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(parse("--colour red").is_err());
        assert!(parse("--size").is_err());
        assert!(parse("--size big").unwrap().number("size", 1_u64).is_err());
        assert!(parse("extra").unwrap().end().is_err());
    }
}
