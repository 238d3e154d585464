//! What a pool has done and holds, as words of its scoreboard: written by the driver, read by onlookers.
//!
//! The order of the figures is the layout of the head. A change of it is a change of the scoreboard's layout number.

use crate::segment::LINE_WORDS;

/// Lines of the head that figures take.
pub(crate) const FIGURE_LINES: usize = 3;

/// Words of the head that figures may take; those that none of them has are 0.
pub(crate) const FIGURE_WORDS: usize = FIGURE_LINES * LINE_WORDS;

/// Declares the figures once: as fields, as words in this order, and as names.
macro_rules! figures {
    ($($(#[$about:meta])* $name:ident),+ $(,)?) => {
        /// A pool's figures at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Figures {
            $($(#[$about])* pub $name: u64,)+
        }

        impl Figures {
            /// The figures in their order.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }

            /// As words, filled up with zeros.
            pub(crate) fn words(&self) -> [u64; FIGURE_WORDS] {
                let mut words = [0; FIGURE_WORDS];
                for (word, figure) in words.iter_mut().zip([$(self.$name),+]) {
                    *word = figure;
                }
                words
            }

            /// The figures that stand in these words.
            pub(crate) fn of(words: &[u64; FIGURE_WORDS]) -> Self {
                let mut words = words.iter().copied();
                Self { $($name: words.next().unwrap_or(0)),+ }
            }
        }
    };
}

figures! {
    /// Lines of the scoreboard that were ever given to a worker; those after them were never written to.
    lines,
    /// Workers that the pool shall have.
    processes,
    /// Workers that live, or are being born.
    workers,
    /// Calls that are not finished.
    calls,
    /// Chunks that are encoded and not wholly answered.
    chunks,
    /// Items of all calls that were encoded.
    submitted,
    /// Items that workers answered, or that died with one.
    done,
    /// Of those, items that are failures.
    failed,
    /// Items that were tried again after their worker died.
    retried,
    /// Payload bytes that were copied into shared memory for workers.
    copied_bytes,
    /// Payload bytes that travelled inside messages to workers.
    message_bytes,
    /// Payload bytes that workers were given as they lay.
    lent_bytes,
    /// Bytes of results that came back.
    result_bytes,
    /// Bytes of results that were moved to a disk.
    spilled_bytes,
    /// Bytes of the pool's shared memory that hold payload now.
    payload_bytes,
    /// Bytes of workers' memory that results hold now: waiting, on their way to a disk, or in use.
    results_bytes,
    /// What the pool admits, in per cent of what it would if memory were not short.
    admitted_percent,
    /// Processes born.
    births,
    /// Workers that ended without having been asked to.
    deaths,
    /// Workers replaced for their calls or their memory.
    recycled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_into_the_head_and_come_back() {
        assert!(Figures::default().named().len() <= FIGURE_WORDS);
        let figures = Figures { lines: 1, done: 6, recycled: 19, ..Figures::default() };
        assert_eq!(Figures::of(&figures.words()), figures);
    }
}
