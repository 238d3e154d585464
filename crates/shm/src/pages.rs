//! How large a page is, and a set of pages of one segment, as a bitmap.
//!
//! Three sets are kept: which pages are claimed by live blocks (segment.rs, where it guards against handing a page
//! out twice), and which are live and which have been touched (arena.rs, where they make the account of warm memory
//! exact). A bitmap costs one bit per page, 2 KiB for a usual segment of 64 MiB, and adding a block of 8 MiB to it
//! writes 32 words. The alternative, a high-water mark with a list of punched holes, needs as many entries as there
//! are holes and is more code for the same answer.

use std::ops::Range;

/// The machine's page size in bytes, the unit of everything that is claimed, punched or handed out.
pub(crate) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// How many pages one word of the bitmap stands for.
const PAGES_PER_WORD: u64 = 64;

/// A set of page numbers that are small enough to be kept as bits. It grows as pages are added.
#[derive(Debug, Default, Clone)]
pub(crate) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// Adds the pages and says how many of them were not in the set before.
    pub(crate) fn insert(&mut self, pages: Range<u64>) -> u64 {
        let words = pages.end.div_ceil(PAGES_PER_WORD) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        let mut added = 0;
        for (index, mask) in masks(pages) {
            let word = &mut self.words[index];
            added += u64::from((mask & !*word).count_ones());
            *word |= mask;
        }
        added
    }

    /// Takes the pages out and says how many of them were in the set before.
    pub(crate) fn remove(&mut self, pages: Range<u64>) -> u64 {
        let mut removed = 0;
        for (index, mask) in masks(pages) {
            let Some(word) = self.words.get_mut(index) else {
                break;
            };
            removed += u64::from((mask & *word).count_ones());
            *word &= !mask;
        }
        removed
    }

    /// Whether any of the pages is in the set.
    pub(crate) fn intersects(&self, pages: Range<u64>) -> bool {
        masks(pages).any(|(index, mask)| self.words.get(index).is_some_and(|word| word & mask != 0))
    }

    /// The maximal runs of those pages of a range that are in the set, and of those that are not, in ascending order.
    pub(crate) fn split(&self, pages: Range<u64>) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let mut runs: [Vec<Range<u64>>; 2] = Default::default();
        for (index, mask) in masks(pages) {
            let word = self.words.get(index).copied().unwrap_or(0);
            for (list, bits) in runs.iter_mut().zip([word & mask, !word & mask]) {
                push_runs(list, index, bits);
            }
        }
        let [inside, outside] = runs;
        (inside, outside)
    }

    /// The maximal runs of pages that are in this set and not in `other`, in ascending order.
    pub(crate) fn runs_without(&self, other: &Self) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (index, &word) in self.words.iter().enumerate() {
            push_runs(&mut runs, index, word & !other.words.get(index).copied().unwrap_or(0));
        }
        runs
    }
}

/// Appends the runs of ones in one word of a bitmap; one that begins where the last run ended makes it longer.
fn push_runs(runs: &mut Vec<Range<u64>>, index: usize, mut bits: u64) {
    while bits != 0 {
        let first = bits.trailing_zeros();
        let count = (bits >> first).trailing_ones();
        // The lowest `first + count` bits are dealt with; a shift by 64 would overflow, hence the checked one.
        bits &= u64::MAX.checked_shl(first + count).unwrap_or(0);
        let start = index as u64 * PAGES_PER_WORD + u64::from(first);
        let end = start + u64::from(count);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
}

/// The words that a range of pages touches, each with the bits that belong to the range.
fn masks(pages: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = if pages.is_empty() {
        0..0
    } else {
        pages.start / PAGES_PER_WORD..pages.end.div_ceil(PAGES_PER_WORD)
    };
    words.map(move |word| {
        let base = word * PAGES_PER_WORD;
        let low = pages.start.saturating_sub(base);
        let high = (pages.end - base).min(PAGES_PER_WORD);
        let mask = (u64::MAX >> (PAGES_PER_WORD - (high - low))) << low;
        (word as usize, mask)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The oracle is the standard library's set.
        #[test]
        fn behaves_like_a_btree_set(
            steps in prop::collection::vec((any::<bool>(), 0u64..300, 0u64..200), 1..40),
            others in prop::collection::vec((0u64..300, 0u64..100), 0..4),
        ) {
            let (mut set, mut oracle) = (PageSet::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let pages = start..start + length;
                prop_assert_eq!(
                    set.intersects(pages.clone()),
                    pages.clone().any(|page| oracle.contains(&page))
                );
                let mut changed = 0;
                for page in pages.clone() {
                    changed += u64::from(if add { oracle.insert(page) } else { oracle.remove(&page) });
                }
                prop_assert_eq!(if add { set.insert(pages) } else { set.remove(pages) }, changed);
            }
            let (inside, outside) = set.split(40..260);
            prop_assert!(inside.into_iter().flatten().eq(oracle.range(40..260).copied()));
            prop_assert!(outside.into_iter().flatten().eq((40..260).filter(|page| !oracle.contains(page))));
            let mut other = PageSet::default();
            for (start, length) in others {
                other.insert(start..start + length);
                oracle.retain(|page| !(start..start + length).contains(page));
            }
            let runs = set.runs_without(&other);
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "runs are maximal");
            prop_assert!(runs.into_iter().flatten().eq(oracle));
        }
    }
}
