//! Fields of messages in bytes: integers are little-endian and of fixed size, lists carry their length first.

use crate::error::{Error, Result};
use crate::id::Time;
use crate::payload::{Outline, Part};
use crate::telemetry::Shift;
use forklift_shm::{SegmentId, Span};
use std::time::Duration;

/// Appends fields to a packet.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn duration(&mut self, value: Duration) -> &mut Self {
        self.u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn length(&mut self, value: usize) -> &mut Self {
        // Longer than 4 Gi entries is never reached: the list would not fit a block's announcement.
        self.u32(u32::try_from(value).expect("a message's list has less than 2^32 entries"))
    }

    pub(super) fn span(&mut self, span: Span) -> &mut Self {
        self.u32(span.segment.0).u64(span.offset).u64(span.bytes)
    }

    pub(super) fn spans(&mut self, spans: &[Span]) -> &mut Self {
        self.length(spans.len());
        for span in spans {
            self.span(*span);
        }
        self
    }

    pub(super) fn segments(&mut self, segments: &[SegmentId]) -> &mut Self {
        self.length(segments.len());
        for segment in segments {
            self.u32(segment.0);
        }
        self
    }

    pub(super) fn shift(&mut self, shift: &Shift) -> &mut Self {
        let Shift { begun, waited, packing, sending, crossing, cpu, helpers, longest, samples, imported } =
            shift;
        self.u64(begun.0);
        for duration in [waited, packing, sending, crossing, cpu, helpers, &longest.1] {
            self.duration(*duration);
        }
        self.u32(longest.0).length(samples.len());
        for (nanos, count) in samples {
            self.u64(*nanos).u32(*count);
        }
        self.text(imported)
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self
    }

    pub(super) fn part(&mut self, part: &Part) -> &mut Self {
        match part {
            Part::Inline(bytes) => {
                self.u8(0).length(bytes.len());
                self.0.extend(bytes);
                self
            }
            Part::Span(span) => self.u8(1).span(*span),
        }
    }

    pub(super) fn outline(&mut self, outline: &Outline) -> &mut Self {
        self.part(&outline.stream).length(outline.buffers.len());
        for part in &outline.buffers {
            self.part(part);
        }
        self
    }

    pub(super) fn option(&mut self, outline: Option<&Outline>) -> &mut Self {
        match outline {
            None => self.u8(0),
            Some(outline) => self.u8(1).outline(outline),
        }
    }
}

/// Takes fields off the front of a packet.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (here, rest) = self.0.split_at_checked(count).ok_or(Error::Malformed("message too short"))?;
        self.0 = rest;
        Ok(here)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Malformed("neither true nor false")),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn duration(&mut self) -> Result<Duration> {
        Ok(Duration::from_nanos(self.u64()?))
    }

    pub(super) fn span(&mut self) -> Result<Span> {
        Ok(Span { segment: SegmentId(self.u32()?), offset: self.u64()?, bytes: self.u64()? })
    }

    /// A list of at least `entry_bytes` each: a length that the rest of the packet cannot hold is refused before
    /// anything is allocated.
    pub(super) fn list<T>(
        &mut self,
        entry_bytes: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.u32()? as usize;
        if count > self.0.len() / entry_bytes {
            return Err(Error::Malformed("list longer than its message"));
        }
        (0..count).map(|_| entry(self)).collect()
    }

    pub(super) fn spans(&mut self) -> Result<Vec<Span>> {
        self.list(20, Self::span)
    }

    pub(super) fn segments(&mut self) -> Result<Vec<SegmentId>> {
        self.list(4, |from| Ok(SegmentId(from.u32()?)))
    }

    pub(super) fn shift(&mut self) -> Result<Shift> {
        let begun = Time(self.u64()?);
        let mut durations = [Duration::ZERO; 7];
        for duration in &mut durations {
            *duration = self.duration()?;
        }
        let [waited, packing, sending, crossing, cpu, helpers, longest] = durations;
        let longest = (self.u32()?, longest);
        let samples = self.list(12, |from| Ok((from.u64()?, from.u32()?)))?;
        let imported = self.text()?;
        Ok(Shift { begun, waited, packing, sending, crossing, cpu, helpers, longest, samples, imported })
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| Error::Malformed("text that is none"))
    }

    pub(super) fn part(&mut self) -> Result<Part> {
        if self.bool()? {
            return Ok(Part::Span(self.span()?));
        }
        let count = self.u32()? as usize;
        Ok(Part::Inline(self.take(count)?.to_vec()))
    }

    pub(super) fn outline(&mut self) -> Result<Outline> {
        Ok(Outline { stream: self.part()?, buffers: self.list(5, Self::part)? })
    }

    pub(super) fn option(&mut self) -> Result<Option<Outline>> {
        if self.bool()? { self.outline().map(Some) } else { Ok(None) }
    }

    pub(super) fn end<T>(self, message: T) -> Result<T> {
        if self.0.is_empty() {
            Ok(message)
        } else {
            Err(Error::Malformed("bytes after the end of a message"))
        }
    }
}
