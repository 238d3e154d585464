//! What earlier jobs have shown of a function's items: where one is called again, first chunks need not be a guess.

use super::chunking::Precedent;
use super::job::Job;
use crate::event::JobSpec;
use std::collections::VecDeque;

/// Functions that are remembered.
const FUNCTIONS_MAX: usize = 64;

/// Functions that were called, and what the last job of each has shown; the latest at the end.
#[derive(Debug, Default)]
pub(super) struct Precedents(VecDeque<(u64, Precedent)>);

impl Precedents {
    /// Where the end is not known, a first chunk that is too long after all might be all there is: nothing is assumed.
    pub(super) fn of(&self, spec: &JobSpec) -> Option<Precedent> {
        let function = spec.items.and(spec.function)?;
        self.0.iter().find(|(known, _)| *known == function).map(|(_, precedent)| *precedent)
    }

    /// Remembers what a job has shown that is over.
    pub(super) fn learn(&mut self, job: &Job) {
        let Some(function) = job.spec.function else { return };
        let Some(precedent) = job.chunker.precedent() else { return };
        self.0.retain(|(known, _)| *known != function);
        if self.0.len() == FUNCTIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((function, precedent));
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunking::{Bounds, Chunker};
    use super::*;
    use crate::event::{Chunking, Delivery};
    use std::time::Duration;

    fn spec(function: Option<u64>, items: Option<u64>) -> JobSpec {
        let (chunking, delivery) = (Chunking::Automatic, Delivery::Collected);
        JobSpec { function, items, chunking, delivery, retries: 0, task_timeout: None }
    }

    #[test]
    fn the_last_functions_are_remembered_and_only_where_the_end_is_known() {
        let mut precedents = Precedents::default();
        for function in 0..100 {
            let mut job = Job::new(spec(Some(function), Some(10)), None);
            precedents.learn(&job);
            assert!(precedents.of(&job.spec).is_none(), "it has shown nothing");
            job.chunker.answered(1, Duration::from_millis(1), 8);
            precedents.learn(&job);
            job.spec.function = Some(0);
            precedents.learn(&job);
        }
        let found = |function, items| precedents.of(&spec(function, items)).is_some();
        let known = (0..100).filter(|&function| found(Some(function), Some(10))).count();
        assert_eq!((known, found(Some(99), Some(10)), found(Some(1), Some(10))), (64, true, false));
        assert!(found(Some(0), Some(10)), "it was called all the time");
        assert!(!found(Some(99), None) && !found(None, Some(10)));
    }

    /// Sizes of a first, second and third chunk of a job whose items cost so many microseconds and weigh so many bytes, after
    /// one whose items cost 50 µs; the third once the first is answered.
    fn sizes(micros: u64, bytes: u64) -> [u32; 3] {
        let bounds = Bounds {
            message_cost: Duration::from_micros(60),
            workers: 2,
            probe_items: 1,
            forking: Duration::ZERO,
            remaining: Some(100_000),
            bytes_in_max: 4 << 20,
            bytes_in_far: 16 << 20,
            bytes_out_max: 4 << 20,
        };
        let mut past = Chunker::new(Chunking::Automatic, None);
        for items in [1, 8, 48] {
            past.encoded(items, 8 * u64::from(items));
            past.answered(items, Duration::from_micros(50) * items, 8);
            past.proved(items);
        }
        let mut chunker = Chunker::new(Chunking::Automatic, past.precedent());
        assert!(!chunker.has_seen_any() && chunker.precedent().is_none());
        let first = chunker.items(&bounds);
        chunker.encoded(first, u64::from(first) * bytes);
        let second = chunker.items(&bounds);
        chunker.answered(first, Duration::from_micros(micros) * first, 8);
        chunker.proved(first);
        [first, second, chunker.items(&bounds)]
    }

    #[test]
    fn where_a_function_is_called_again_the_second_chunk_has_its_size() {
        assert_eq!(sizes(50, 8), [1, 48, 48]);
        assert_eq!(sizes(50, 1 << 20), [1, 4, 4], "what items weigh is seen, not assumed");
    }

    #[test]
    fn an_answer_that_says_otherwise_ends_what_was_assumed() {
        assert_eq!(sizes(5_000, 8), [1, 48, 1]);
        assert_eq!(sizes(300, 8), [1, 48, 8]);
        let cheap = sizes(5, 8);
        assert!(cheap[..2] == [1, 48] && cheap[2] > 48, "{cheap:?}");
    }

    #[test]
    fn what_first_items_cost_is_what_first_items_are_thought_to_cost() {
        let mut past = Chunker::new(Chunking::Automatic, None);
        for (items, micros) in [(1, 10), (40, 10), (100, 10), (1, 1_000), (2, 1_000), (2, 1_000)] {
            past.encoded(items, 8);
            past.answered(items, Duration::from_micros(micros) * items, 8);
            past.proved(items);
        }
        let next = Chunker::new(Chunking::Automatic, past.precedent());
        let mean = |chunker: &Chunker| (chunker.seconds.mean() * 1e6).round() as u64;
        assert_eq!(mean(&next), 10);
        assert!(mean(&past) > 500);
    }
}
