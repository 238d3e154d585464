//! The socket pair between the parent and one child: packets, and descriptors that come along.
//!
//! SEQPACKET keeps the borders of messages, so nothing is ever half read, and its end of file is how each side
//! learns that the other is gone. The two ends are two types: [`ParentEnd`] never waits (the driver has other
//! children to look after, so what does not fit the socket's buffer is kept here), [`WorkerEnd`] does little else.

use crate::error::{Error, Result, system};
use forklift_shm::beside_streams;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

/// A longer message travels in a block. Well below the kernel's default of 208 KiB for what one socket may hold,
/// so that a packet is never too large for an empty socket.
pub const PACKET_BYTES_MAX: usize = 64 << 10;

/// Descriptors that may come with one packet.
pub const DESCRIPTORS_MAX: usize = 4;

/// A packet and what came with it.
#[derive(Debug)]
pub struct Packet {
    /// The message.
    pub bytes: Vec<u8>,
    /// The descriptors, in the order in which they were sent.
    pub descriptors: Vec<OwnedFd>,
    /// There were more, for which this process has no room: it has as many open as it may. The kernel has dropped them.
    pub truncated: bool,
}

/// A fresh pair: the parent's end, and the descriptor that the child will make its [`WorkerEnd`] from.
///
/// # Errors
/// When no descriptor can be had.
pub fn pair() -> Result<(ParentEnd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(system("make a socket pair"))?;
    Ok((ParentEnd::new(beside_streams(ours)), beside_streams(theirs)))
}

/// The parent's end of one channel. Never waits.
#[derive(Debug)]
pub struct ParentEnd {
    socket: OwnedFd,
    /// What the socket had no room for, in order.
    unsent: VecDeque<(Vec<u8>, Vec<Arc<OwnedFd>>)>,
    buffer: Vec<u8>,
}

impl ParentEnd {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, unsent: VecDeque::new(), buffer: vec![0; PACKET_BYTES_MAX] }
    }

    /// Sends a packet, now or as soon as [`ParentEnd::flush`] finds room. The descriptors are duplicated by the
    /// kernel. An end that is closed swallows packets: its death is reported by reading.
    ///
    /// # Errors
    /// What the system says, other than "no room" and "closed".
    pub fn send(&mut self, packet: Vec<u8>, descriptors: Vec<Arc<OwnedFd>>) -> Result<()> {
        self.unsent.push_back((packet, descriptors));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// As [`ParentEnd::send`].
    pub fn flush(&mut self) -> Result<()> {
        while let Some((packet, descriptors)) = self.unsent.front() {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(|fd| fd.as_fd()).collect();
            match send(self.socket.as_fd(), packet, &descriptors, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(()) => {
                    self.unsent.pop_front();
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => self.unsent.clear(),
                Err(errno) => return Err(system("send to a worker")(errno)),
            }
        }
        Ok(())
    }

    /// Closes the channel for both ends: what has come can still be received, and then its end of file.
    pub fn shut(&self) {
        // One that is closed already is what we want.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Whether packets wait for room: then watch for writability as well.
    #[must_use]
    pub fn congested(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next packet, if one has come.
    ///
    /// # Errors
    /// [`Error::Gone`] at the end of file; otherwise what the system says.
    pub fn receive(&mut self) -> Result<Option<Packet>> {
        match receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(packet) if packet.bytes.is_empty() => Err(Error::Gone),
            Ok(packet) => Ok(Some(packet)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::CONNRESET) => Err(Error::Gone),
            Err(errno) => Err(system("receive from a worker")(errno)),
        }
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A worker's end of its channel. Waits.
#[derive(Debug)]
pub struct WorkerEnd {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl WorkerEnd {
    /// Takes over the descriptor that the child was born with.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; PACKET_BYTES_MAX] }
    }

    /// Sends a packet; waits for room.
    ///
    /// # Errors
    /// [`Error::Gone`] when the parent is; otherwise what the system says.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        loop {
            match send(self.socket.as_fd(), packet, descriptors, SendFlags::NOSIGNAL) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Gone),
                Err(errno) => return Err(system("send to the parent")(errno)),
            }
        }
    }

    /// The next packet, or `None` if `patience` passes or a signal interrupts the wait first.
    ///
    /// # Errors
    /// [`Error::Gone`] when the parent is; otherwise what the system says.
    pub fn receive(&mut self, patience: Option<Duration>) -> Result<Option<Packet>> {
        self.wait_and_receive(None, patience)
    }

    /// As [`WorkerEnd::receive`], but returns `None` also when the other descriptor becomes readable.
    ///
    /// # Errors
    /// As [`WorkerEnd::receive`].
    pub fn receive_or(
        &mut self,
        other: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> Result<Option<Packet>> {
        self.wait_and_receive(Some(other), patience)
    }

    fn wait_and_receive(
        &mut self,
        other: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> Result<Option<Packet>> {
        let timeout = patience.map(timespec);
        let socket = self.socket.as_fd();
        let mut watched =
            [socket, other.unwrap_or(socket)].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(None),
            Ok(_) if watched[0].revents().is_empty() => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(system("wait for the parent")(errno)),
        }
        match receive(self.socket.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
            Ok(packet) if packet.bytes.is_empty() => Err(Error::Gone),
            Ok(packet) => Ok(Some(packet)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::CONNRESET) => Err(Error::Gone),
            Err(errno) => Err(system("receive from the parent")(errno)),
        }
    }
}

/// A duration as the kernel takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "at most {DESCRIPTORS_MAX} descriptors go with a packet");
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, flags).map(|_| ())
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> rustix::io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received.map(beside_streams));
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    let truncated = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Packet { bytes: buffer[..received.bytes].to_vec(), descriptors, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_borders_and_descriptors() {
        let (mut parent, child) = pair().unwrap();
        let mut worker = WorkerEnd::new(child);
        let file = Arc::new(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        parent.send(vec![1, 2, 3], vec![file]).unwrap();
        parent.send(vec![4], vec![]).unwrap();
        let first = worker.receive(None).unwrap().unwrap();
        assert_eq!((first.bytes, first.descriptors.len()), (vec![1, 2, 3], 1));
        let second = worker.receive(None).unwrap().unwrap();
        assert_eq!((second.bytes, second.descriptors.len()), (vec![4], 0));
        assert!(worker.receive(Some(Duration::ZERO)).unwrap().is_none());
    }

    #[test]
    fn a_full_socket_keeps_what_waits_in_order() {
        let (mut parent, child) = pair().unwrap();
        let mut worker = WorkerEnd::new(child);
        for index in 0..64u8 {
            parent.send(vec![index; PACKET_BYTES_MAX], vec![]).unwrap();
        }
        assert!(parent.congested());
        for index in 0..64u8 {
            parent.flush().unwrap();
            let packet = worker.receive(Some(Duration::from_secs(5))).unwrap().unwrap();
            assert_eq!((packet.bytes.len(), packet.bytes[0]), (PACKET_BYTES_MAX, index));
        }
        assert!(!parent.congested());
    }

    #[test]
    fn each_end_sees_the_other_go() {
        let (mut parent, child) = pair().unwrap();
        assert!(matches!(parent.receive(), Ok(None)));
        drop(child);
        assert!(matches!(parent.receive(), Err(Error::Gone)));
        assert!(parent.send(vec![1], vec![]).is_ok());

        let (parent, child) = pair().unwrap();
        let mut worker = WorkerEnd::new(child);
        drop(parent);
        assert!(matches!(worker.receive(None), Err(Error::Gone)));
        assert!(matches!(worker.send(&[1], &[]), Err(Error::Gone)));
    }
}
