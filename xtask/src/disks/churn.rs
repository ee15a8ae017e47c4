//! What a busy guest does to a disk: pages overwritten here and there.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::image::{self, PAGE};
use crate::failure::{At, Failure, Result};
use crate::random::Random;

/// Makes `to` as a copy of `from` in which `count` of the `candidates` (sorted pages) have new content.
pub(crate) fn overwrite(
    from: &Path,
    to: &Path,
    candidates: Vec<u64>,
    count: u64,
    random: &mut Random,
) -> Result<()> {
    if (candidates.len() as u64) < count {
        return Err(Failure::new(format!(
            "{count} pages to overwrite, but only {} hold files",
            candidates.len()
        )));
    }
    image::copy_sparse(from, to)?;
    let file = OpenOptions::new().write(true).open(to).at(to)?;
    for (number, page) in (0_u64..).zip(choose(candidates, count, random)) {
        file.write_all_at(&new_page(number, random), page * PAGE).at(to)?;
    }
    Ok(())
}

/// Chooses `count` of `candidates`, each with equal chance, keeping their order (Knuth's algorithm S).
fn choose(candidates: Vec<u64>, count: u64, random: &mut Random) -> Vec<u64> {
    let (mut left, mut wanted) = (candidates.len() as u64, count);
    let mut take = |_: &u64| {
        let taken = random.below(left) < wanted;
        left -= 1;
        wanted -= u64::from(taken);
        taken
    };
    candidates.into_iter().filter(|page| take(page)).collect()
}

/// Half noise, the other half rows of a table and free space: as well compressible as pages of a database.
fn new_page(number: u64, random: &mut Random) -> Vec<u8> {
    let mut page = vec![0; 2048];
    random.fill(&mut page);
    for row in 0.. {
        let text = format!("{number:08}|{row:04}|updated|{:06}|pending;", random.below(10_000));
        if page.len() + text.len() > 3700 {
            break;
        }
        page.extend_from_slice(text.as_bytes());
    }
    page.resize(4096, 0);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_has_the_number_asked_for_in_order_and_is_spread() {
        let chosen = choose((0..10_000).collect(), 100, &mut Random::new(1, "test"));
        assert_eq!(chosen.len(), 100);
        assert!(chosen.is_sorted_by(|a, b| a < b));
        assert!(chosen[49] > 3500 && chosen[49] < 6500, "{}", chosen[49]);
        assert_eq!(choose(vec![1, 2, 3], 3, &mut Random::new(1, "test")), [1, 2, 3]);
    }
}
