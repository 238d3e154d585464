//! Whether bytes are what they were.
//!
//! Four lanes take a word each in turn, by steps that lose nothing (exclusive or, multiplication by an odd number,
//! rotation). So bytes that differ in one place have another digest for certain, and those that differ in several by all
//! but one chance in 2^64. It is no defence against somebody who looks for such a case. It takes about as long as reading
//! bytes that a cache has.

/// What bytes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    lanes: [u64; 4],
    bytes: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self {
            lanes: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98],
            bytes: 0,
        }
    }
}

/// Odd, with bits all over.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Digest {
    /// Takes in some more bytes. Where one call ends and the next begins counts.
    pub fn add(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            self.take(block);
        }
        if !rest.is_empty() {
            let mut last = [0; 32];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.take(&last);
        }
        self.bytes = self.bytes.rotate_left(7) ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    }

    fn take(&mut self, block: &[u8; 32]) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in self.lanes.iter_mut().zip(words) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> Digest {
        let mut digest = Digest::default();
        parts.iter().for_each(|part| digest.add(part));
        digest
    }

    #[test]
    fn any_one_change_shows() {
        let bytes: Vec<u8> = (0..200).map(|at| (at * 7) as u8).collect();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_ne!(of(&[&bytes]), of(&[&changed]), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn order_and_length_show() {
        assert_eq!(of(&[b"one", b"two"]), of(&[b"one", b"two"]));
        assert_ne!(of(&[b"one", b"two"]), of(&[b"two", b"one"]));
        assert_ne!(of(&[b"one", b""]), of(&[b"one"]));
        assert_ne!(of(&[b"one"]), of(&[b"one\0"]));
        assert_ne!(of(&[&[0; 32]]), of(&[&[0; 64]]));
    }
}
