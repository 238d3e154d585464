//! How much memory is a process's own, and whether that is more than it may have.
//!
//! The kernel tells cheaply how many anonymous pages a process has (`statm`, a few microseconds). Among those of a
//! process that was forked are pages that it still has in common with the process it was forked from: the modules that
//! the zygote had imported. These do not count, and only `smaps` tells them apart, in milliseconds. So the cheap figure
//! is asked first; the dear one only where the cheap one is above the limit and does not settle it, and again only when
//! memory has grown by a noticeable part of the limit. What is had in common only ever becomes less.
//!
//! What a process holds of shared memory (arrays in the worker's own blocks, arguments that it keeps) does not show in
//! anonymous pages; whoever asks adds it as `held`.

use std::fs;
use std::path::PathBuf;

/// A part of the limit, by which memory must have grown before it is looked at closely once more.
const STEP: u64 = 32;

/// One process, as far as its memory is concerned.
#[derive(Debug)]
pub struct Footprint {
    place: PathBuf,
    seen: Option<Seen>,
}

/// What the last close look has shown, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    anonymous: u64,
    /// Of these, what others have too.
    shared: u64,
}

/// What the cheap figure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Below,
    /// Certainly above: so many bytes at least.
    Above(u64),
    /// It takes a close look.
    Doubtful,
}

impl Footprint {
    /// Of the process of this number, or of this one.
    #[must_use]
    pub fn of(pid: Option<u32>) -> Self {
        let name = pid.map_or_else(|| "self".into(), |pid| pid.to_string());
        Self { place: PathBuf::from("/proc").join(name), seen: None }
    }

    /// Whether it may have more than `limit` bytes of its own. Cheap; only [`Footprint::above`] is sure.
    #[must_use]
    pub fn suspect(&self, held: u64, limit: u64) -> bool {
        self.anonymous().is_some_and(|bytes| judge(self.seen, bytes, held, limit) != Verdict::Below)
    }

    /// How many bytes of its own it has, if these are more than `limit`. May take milliseconds. Where the system does
    /// not tell, nothing is above any limit.
    pub fn above(&mut self, held: u64, limit: u64) -> Option<u64> {
        let anonymous = self.anonymous()?;
        match judge(self.seen, anonymous, held, limit) {
            Verdict::Below => None,
            Verdict::Above(bytes) => Some(bytes),
            Verdict::Doubtful => {
                // What cannot be read closely is taken as the cheap figure says.
                let text = fs::read_to_string(self.place.join("smaps")).ok();
                let private = text.map_or(anonymous, |text| private_bytes(&text).min(anonymous));
                self.seen = Some(Seen { anonymous, shared: anonymous - private });
                Some(private.saturating_add(held)).filter(|own| *own > limit)
            }
        }
    }

    fn anonymous(&self) -> Option<u64> {
        anonymous_pages(&fs::read_to_string(self.place.join("statm")).ok()?)
            .map(|pages| pages.saturating_mul(rustix::param::page_size() as u64))
    }
}

/// What the cheap figure means, with what is known from the last close look.
fn judge(seen: Option<Seen>, anonymous: u64, held: u64, limit: u64) -> Verdict {
    if anonymous.saturating_add(held) <= limit {
        return Verdict::Below;
    }
    let Some(seen) = seen else { return Verdict::Doubtful };
    let least = anonymous.saturating_sub(seen.shared).saturating_add(held);
    if least > limit {
        Verdict::Above(least)
    } else if anonymous > seen.anonymous.saturating_add(limit / STEP) {
        Verdict::Doubtful
    } else {
        Verdict::Below
    }
}

/// Resident pages less those of files and shared memory.
fn anonymous_pages(statm: &str) -> Option<u64> {
    let mut fields = statm.split_whitespace().skip(1);
    let resident: u64 = fields.next()?.parse().ok()?;
    let shared: u64 = fields.next()?.parse().ok()?;
    Some(resident.saturating_sub(shared))
}

/// Anonymous memory that nobody else has, added up over the mappings. Where a mapping has private pages of both kinds,
/// those of its file are not told apart; they are few, and at most the anonymous ones are counted.
fn private_bytes(smaps: &str) -> u64 {
    let (mut total, mut private) = (0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let kibibytes = || value.parse::<u64>().unwrap_or(0) << 10;
        match name {
            "Private_Clean:" => private = kibibytes(),
            "Private_Dirty:" => private += kibibytes(),
            "Anonymous:" => total += private.min(kibibytes()),
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 3200;

    fn seen(anonymous: u64, shared: u64) -> Option<Seen> {
        Some(Seen { anonymous, shared })
    }

    #[test]
    fn the_cheap_figure_is_enough_as_long_as_it_is_below() {
        assert_eq!(judge(None, 3000, 200, LIMIT), Verdict::Below);
        assert_eq!(judge(None, 3000, 201, LIMIT), Verdict::Doubtful);
    }

    #[test]
    fn what_is_above_without_what_was_shared_is_above() {
        assert_eq!(judge(seen(3300, 500), 3701, 0, LIMIT), Verdict::Above(3201));
        assert_eq!(judge(seen(3300, 500), 3300, 401, LIMIT), Verdict::Above(3201));
    }

    #[test]
    fn a_close_look_is_not_repeated_before_memory_has_grown() {
        assert_eq!(judge(seen(3300, 1000), 3400, 0, LIMIT), Verdict::Below);
        assert_eq!(judge(seen(3300, 1000), 3401, 0, LIMIT), Verdict::Doubtful);
    }

    #[test]
    fn only_anonymous_pages_that_nobody_else_has_are_private() {
        let smaps = "55e0-55f0 rw-p 00000000 00:00 0 [heap]\n\
                     Shared_Dirty: 400 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 96 kB\nAnonymous: 500 kB\n\
                     7f00-7f10 rw-s 00000000 00:01 9 /memfd:forklift (deleted)\n\
                     Private_Clean: 0 kB\nPrivate_Dirty: 800 kB\nAnonymous: 0 kB\n\
                     7f20-7f30 r--p 00000000 08:01 7 /lib/libc.so.6\n\
                     Private_Clean: 64 kB\nPrivate_Dirty: 8 kB\nAnonymous: 8 kB\n";
        assert_eq!(private_bytes(smaps), (100 + 8) << 10);
        assert_eq!(anonymous_pages("765 439 411 5 0 123 0\n"), Some(28));
        assert_eq!(anonymous_pages(""), None);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let mut own = Footprint::of(None);
        assert!(own.suspect(0, 1 << 10));
        assert!(own.above(0, 1 << 10).is_some_and(|bytes| bytes > 1 << 10));
        assert_eq!(own.above(0, 1 << 50), None);
        assert_eq!(Footprint::of(Some(u32::MAX)).above(1 << 20, 0), None, "nobody");
    }
}
