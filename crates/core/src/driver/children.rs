//! The driver's dealings with its children: births, calls, messages, deaths.

use super::{Chunk, Driver, SCOREBOARD_LINES, Watch, now};
use crate::crew::{ChildEnds, Piece, Word, Worker};
use crate::error::{Error, Result, system};
use crate::event::{Event, Kept, Wear, Whereabouts};
use crate::handle::{Answer, Cause, Death, Fault, Outcome};
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::machine::MemoryKills;
use crate::mailbox::Answered;
use crate::message::{ToParent, ToWorker, VERSION};
use crate::process::{Notice, Process};
use crate::telemetry::{Flow, Happening, Reply};
use forklift_shm::Span;
use rustix::event::epoll;
use std::sync::Arc;
use std::time::Duration;

/// After the first sign of a death (its pidfd, the end of its channel), how long the other signs may take: the exit
/// status from the zygote, the death itself of a worker that has closed its channel.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);

/// The status of a child that got SIGKILL.
const SIGKILLED: i32 = -9;

/// What a result that waits for its consumer weighs beyond its bytes: its share of bookkeeping, and the object that will
/// be made of it. Without it an endless iterator of small numbers would be taken tens of millions of items ahead.
const RESULT_BYTES_MIN: u64 = 512;

impl Driver {
    pub(super) fn watch_zygote(&mut self) -> Result<()> {
        if let Some(socket) = self.birthplace.socket()
            && !self.zygote_watched
        {
            epoll::add(&self.epoll, socket, Watch::Zygote.token(), epoll::EventFlags::IN)
                .map_err(system("watch the zygote"))?;
            self.zygote_watched = true;
        }
        Ok(())
    }

    pub(super) fn bear(&mut self, id: WorkerId) {
        if let Err(error) = self.try_bear(id) {
            self.stillborn(id, &error.to_string());
        }
    }

    fn try_bear(&mut self, id: WorkerId) -> Result<()> {
        let line = self.take_line()?;
        self.scoreboard.gate(line).open();
        let (worker, ends) = match self.make_worker(id, line) {
            Ok(made) => made,
            Err(error) => {
                self.free_lines.push(line);
                return Err(error);
            }
        };
        self.by_serial.insert(worker.serial, id);
        self.workers.insert(id, worker);
        if self.forks_in_turn(id) {
            self.forks.put(id, ends);
            return Ok(());
        }
        self.begin_birth(id, ends)
    }

    /// A line of the scoreboard that nobody writes to.
    fn take_line(&mut self) -> Result<u32> {
        match self.free_lines.pop() {
            Some(line) => Ok(line),
            None if self.lines_used < SCOREBOARD_LINES => {
                self.lines_used += 1;
                Ok(self.lines_used - 1)
            }
            None => Err(Error::Malformed("more workers at a time than a pool can watch")),
        }
    }

    /// A worker that is to be born, which has been sent its first messages.
    fn make_worker(&mut self, id: WorkerId, line: u32) -> Result<(Worker, ChildEnds)> {
        self.serials += 1;
        self.reserve.fill(&self.bell);
        let (mut worker, ends) =
            Worker::new(id, self.serials, line, &self.mailbox, &self.stock, &self.reserve)?;
        epoll::add(&self.epoll, &worker, Watch::Channel(worker.serial).token(), epoll::EventFlags::IN)
            .map_err(system("watch a worker"))?;
        // The first messages wait in the socket for the child to be born.
        if let Some(initializer) = &self.initializer {
            worker.lend(initializer)?;
        }
        let start = ToWorker::Start {
            worker: id,
            slots: SCOREBOARD_LINES,
            line,
            memory_limit: self.worker_memory_limit.unwrap_or(0),
            shelf: worker.shelf.number(),
            trim_after: self.trim_after,
            initializer: self.initializer.as_ref().map(|payload| payload.outline()),
        };
        let board = self.scoreboard.fd().try_clone_to_owned().map_err(|error| Error::System {
            attempt: "duplicate the scoreboard's descriptor",
            errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::BADF),
        })?;
        worker.send_with(&start, vec![Arc::new(board)], &self.arenas)?;
        Ok((worker, ends))
    }

    pub(super) fn begin_birth(&mut self, id: WorkerId, ends: ChildEnds) -> Result<()> {
        let notice = self.birthplace.bear(id, ends.channel, ends.life)?;
        self.watch_zygote()?;
        if let Some(notice) = notice {
            self.notice(notice);
        }
        Ok(())
    }

    pub(super) fn stillborn(&mut self, id: WorkerId, reason: &str) {
        if self.fault.is_none() {
            self.birth_trouble = Some(reason.into());
            // What ended an earlier birth is not what keeps this one from happening.
            self.refusal.take_if(|refusal| matches!(refusal, Fault::Deaths(_)));
        }
        self.note(id, Happening::Stillborn);
        self.remove(id);
        self.events.push_back(Event::Stillborn { worker: id });
    }

    pub(super) fn forked(&mut self, worker: WorkerId, outcome: std::result::Result<u32, String>) {
        self.fork_ended(worker);
        let child = outcome.and_then(|pid| Process::new(pid, true).map_err(|error| error.to_string()));
        self.notice(match child {
            Ok(child) => Notice::Born { worker, child },
            Err(reason) => Notice::Stillborn { worker, reason },
        });
    }

    pub(super) fn hear_zygote(&mut self) -> Result<()> {
        for notice in self.birthplace.receive()? {
            self.notice(notice);
        }
        Ok(())
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Born { worker: id, child } => {
                let Some(worker) = self.workers.get_mut(&id) else {
                    child.kill();
                    return;
                };
                if let Some(pidfd) = child.pidfd() {
                    let token = Watch::Pidfd(worker.serial).token();
                    if let Err(errno) = epoll::add(&self.epoll, pidfd, token, epoll::EventFlags::IN) {
                        self.birth_trouble = Some(system("watch a process")(errno).to_string());
                        child.kill();
                    }
                }
                worker.process = Some(child);
                if worker.doomed {
                    worker.kill();
                }
                self.counters.births += 1;
                self.note(id, Happening::Born);
                let Some(worker) = self.workers.get_mut(&id) else { return };
                self.events.push_back(Event::Born { worker: id });
                self.events.extend(worker.early.take());
            }
            Notice::Stillborn { worker, reason } => self.stillborn(worker, &reason),
            Notice::Exited { worker, status } => {
                if let Some(known) = self.workers.get_mut(&worker) {
                    known.status = Some(status);
                    self.bury(worker);
                }
            }
            Notice::Closed => {
                // Its children live on (their lives hang on us, not on it); births that it had not reported are
                // void, whatever became of them: a child without a parent's notice ends with its channel.
                self.zygote_watched = false;
                let unborn: Vec<WorkerId> = self
                    .workers
                    .values()
                    .filter(|worker| worker.process.is_none())
                    .map(|worker| worker.id)
                    .collect();
                for worker in unborn {
                    self.stillborn(worker, "the zygote process ended");
                }
            }
        }
    }

    /// Sends, and takes a channel that fails for a death.
    pub(super) fn tell(&mut self, id: WorkerId, message: &ToWorker) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Err(error) = worker.send(message, &self.arenas) {
            worker.expel(&error);
        }
        self.watch_for_room(id);
    }

    pub(super) fn dispatch(
        &mut self,
        id: WorkerId,
        chunk_id: ChunkId,
        skip: u32,
        items: u32,
        patience: Option<Duration>,
    ) {
        let (Some(worker), Some(chunk)) = (self.workers.get_mut(&id), self.chunks.get(&chunk_id)) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(&chunk.job) else { return };
        let next = chunk.first + u64::from(skip);
        worker.given += 1;
        let (number, since) = (worker.given, now());
        worker.pieces.push_back(Piece { chunk: chunk_id, job: chunk.job, number, next, left: items, since });
        if let Some(limit) = job.task_timeout {
            self.watched.insert((now().after(limit), id));
        }
        let new = worker.knows.insert(chunk.job);
        let mut sent = worker
            .tell_of(JobId(0), &self.shares, &self.arenas)
            .and_then(|()| worker.tell_of(chunk.job, &job.shares, &self.arenas))
            .and_then(|()| worker.lend(&chunk.payload));
        if new {
            job.known_by.insert(id);
            self.counters.functions_sent += 1;
            sent = sent.and_then(|()| worker.lend(&job.function));
        }
        let call = ToWorker::Call {
            job: chunk.job,
            chunk: chunk_id,
            // A payload that begins before its first item begins no earlier than its job.
            first: chunk.first.saturating_sub(u64::from(chunk.lead)),
            skip: skip.saturating_add(chunk.lead),
            items,
            retained: chunk.may_come_back(),
            patience: patience.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1)),
            function: new.then(|| job.function.outline()),
            payload: chunk.payload.outline(),
        };
        if let Err(error) = sent.and_then(|()| worker.send(&call, &self.arenas)) {
            worker.expel(&error);
        }
        self.watch_for_room(id);
        self.expect_memory();
    }

    /// The oldest piece comes back undone, or what is left of it.
    fn take_back(worker: &mut Worker, chunk: ChunkId) -> Result<()> {
        if worker.pieces.front().is_none_or(|piece| piece.chunk != chunk) {
            return Err(Error::Malformed("gave back what it was not given"));
        }
        worker.pieces.pop_front();
        if let Some(next) = worker.pieces.front_mut() {
            next.since = now();
        }
        Ok(())
    }

    /// Watches a congested channel for room, and no longer than it is congested.
    pub(super) fn watch_for_room(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let congested = worker.channel.congested();
        if congested != worker.watched_for_room && !worker.hung_up {
            let room = if congested { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let token = Watch::Channel(worker.serial).token();
            if epoll::modify(&self.epoll, &*worker, token, epoll::EventFlags::IN | room).is_ok() {
                worker.watched_for_room = congested;
            }
        }
    }

    pub(super) fn return_block(&mut self, id: WorkerId, span: Span) {
        self.tell(id, &ToWorker::Release { spans: vec![span] });
    }

    pub(super) fn hear_worker(&mut self, serial: u64) {
        let Some(&id) = self.by_serial.get(&serial) else { return };
        if let Some(worker) = self.workers.get_mut(&id)
            && let Err(error) = worker.channel.flush()
        {
            worker.expel(&error);
        }
        self.watch_for_room(id);
        self.listen(id);
    }

    /// Takes in all that a worker has said. One that talks nonsense is killed; its death follows.
    fn listen(&mut self, id: WorkerId) {
        while let Some(worker) = self.workers.get_mut(&id) {
            match worker.receive() {
                Ok(Some(message)) => {
                    self.counters.messages_received += 1;
                    if let Err(error) = self.heed(id, message)
                        && let Some(worker) = self.workers.get_mut(&id)
                    {
                        worker.expel(&error);
                    }
                }
                Ok(None) => return,
                Err(Error::Gone) => {
                    self.hang_up(id);
                    return;
                }
                Err(error) => {
                    worker.expel(&error);
                    self.hang_up(id);
                    return;
                }
            }
        }
    }

    /// The channel has ended: the worker is dead or will be.
    fn hang_up(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !worker.hung_up {
            worker.hung_up = true;
            // Not watched is as good as deleted.
            let _ = epoll::delete(&self.epoll, &*worker);
            // Of a worker elsewhere there is no other sign.
            let elsewhere = worker.process.as_ref().is_some_and(Process::is_elsewhere);
            let patience = if elsewhere { Duration::ZERO } else { DEATH_PATIENCE };
            self.dying.push((now().after(patience), id));
        }
    }

    fn heed(&mut self, id: WorkerId, message: ToParent) -> Result<()> {
        let Some(worker) = self.workers.get_mut(&id) else { return Ok(()) };
        match message {
            ToParent::Ready { version } => {
                if version != VERSION {
                    return Err(Error::Malformed("a worker of another version"));
                }
                worker.state = "idle";
                self.refusal = None;
                self.note(id, Happening::Ready);
                self.tell_of_start(id, Event::Ready { worker: id });
            }
            ToParent::Refused { failure } => {
                let failure = worker.open(failure)?;
                worker.state = "leaving";
                self.refusal = Some(Fault::Initializer(failure.stream.as_slice().into()));
                self.tell_of_start(id, Event::Refused { worker: id });
            }
            ToParent::Release { spans } => spans.into_iter().for_each(|span| worker.loans.give_back(span)),
            ToParent::Return {
                chunk,
                items,
                failed,
                last,
                spent,
                shift,
                handed_bytes,
                results,
                released,
            } => {
                released.into_iter().for_each(|span| worker.loans.give_back(span));
                let parcel = worker.open(results)?;
                let bytes = parcel.bytes() + u64::from(items) * RESULT_BYTES_MIN;
                let piece =
                    worker.pieces.front_mut().ok_or(Error::Malformed("an answer that nobody asked for"))?;
                if piece.chunk != chunk
                    || !(1..=piece.left).contains(&items)
                    || failed > items
                    || last != (items == piece.left)
                {
                    return Err(Error::Malformed("an answer to another question"));
                }
                let (job, first) = (piece.job, piece.next);
                piece.next += u64::from(items);
                piece.left -= items;
                piece.since = now();
                if last {
                    worker.pieces.pop_front();
                    if let Some(next) = worker.pieces.front_mut() {
                        next.since = now();
                    }
                }
                worker.calls += u64::from(items);
                self.figures.done += u64::from(items);
                self.figures.failed += u64::from(failed);
                self.counters.result_bytes += parcel.bytes();
                self.counters.result_bytes_handed += handed_bytes;
                if let Some(job) = self.jobs.get(&job) {
                    let message_bytes = parcel.message_bytes();
                    let copied_bytes = (parcel.bytes() - message_bytes).saturating_sub(handed_bytes);
                    let share = |chunk: &Chunk| {
                        chunk.payload.total_bytes() * u64::from(items) / u64::from(chunk.items.max(1))
                    };
                    job.recorder.answered(&Reply {
                        worker: id,
                        pid: worker.process.as_ref().and_then(Process::pid).unwrap_or(0),
                        first,
                        items,
                        failed,
                        bytes_in: self.chunks.get(&chunk).map_or(0, share),
                        flow: Flow { message_bytes, copied_bytes, lent_bytes: handed_bytes, once_bytes: 0 },
                        spent,
                        shift: &shift,
                    });
                }
                let answer = Answer { first, items, failed, outcome: Outcome::Values(parcel), bytes, spent };
                self.hear(id, Word::Answered(Answered { worker: id, job, chunk, last, answer }));
            }
            ToParent::Unreadable { chunk } => {
                if self.chunks.get(&chunk).is_some_and(|chunk| chunk.kept != Kept::OneByOne) {
                    return Err(Error::Malformed("gave back what nobody can encode again"));
                }
                Self::take_back(worker, chunk)?;
                if let Some(known) = self.chunks.get_mut(&chunk) {
                    known.apart = true;
                }
                self.hear(id, Word::Unreadable(chunk));
            }
            ToParent::Outgrown { .. } => self.hear(id, Word::UsedUp(Wear::Memory)),
            ToParent::Short { .. } => self.hear(id, Word::UsedUp(Wear::Descriptors)),
            ToParent::Surrendered { chunk } => {
                Self::take_back(worker, chunk)?;
                self.hear(id, Word::Surrendered(chunk));
            }
            ToParent::Lost { reason } => worker.account = Some(reason.into()),
            ToParent::Segment { .. } | ToParent::Dropped { .. } | ToParent::Long { .. } => {}
        }
        Ok(())
    }

    /// The machines hear of a birth before they hear from the child, whichever of the two sockets was read first.
    fn tell_of_start(&mut self, id: WorkerId, event: Event) {
        match self.workers.get_mut(&id) {
            Some(worker) if worker.process.is_none() => worker.early = Some(event),
            _ => self.events.push_back(event),
        }
    }

    pub(super) fn see_death(&mut self, serial: u64) {
        let Some(&id) = self.by_serial.get(&serial) else { return self.close_grave(serial) };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(process) = &worker.process else { return };
        if let Some(pidfd) = process.pidfd() {
            // It stays readable; once seen is enough.
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        // Of one that we have killed, or that leaves as it was told, nobody has to ask a zygote that is busy.
        worker.status = process.reap().or_else(|| worker.doomed.then_some(SIGKILLED));
        let in_order = worker.state == "leaving";
        if worker.status.is_some() || in_order || self.birthplace.socket().is_none() {
            self.bury(id);
        } else {
            self.dying.push((now().after(DEATH_PATIENCE), id));
        }
    }

    pub(super) fn bury_overdue(&mut self, now: Time) {
        let overdue: Vec<WorkerId> =
            self.dying.iter().filter(|(by, _)| *by <= now).map(|(_, id)| *id).collect();
        self.dying.retain(|(by, _)| *by > now);
        for id in overdue {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.kill();
            }
            self.bury(id);
        }
    }

    /// The end of a worker: what it had said is heard, where it was is read, what it held is taken back.
    pub(super) fn bury(&mut self, id: WorkerId) {
        self.listen(id);
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.moving) {
            worker.awaits_burial = true;
            return;
        }
        let end = self.workers.get(&id).map(|worker| (self.whereabouts(worker), self.begun(worker)));
        let Some((at, begun)) = end else { return };
        if let Some(worker) = self.workers.get_mut(&id) {
            if let Some(piece) = worker.pieces.front().filter(|_| at == Whereabouts::Translating)
                && let Some(chunk) = self.chunks.get_mut(&piece.chunk)
            {
                chunk.apart = true;
            }
            self.counters.deaths += u64::from(worker.state != "leaving" && self.fault.is_none());
            if worker.status.is_none() {
                worker.status = worker.process.as_ref().and_then(Process::reap);
            }
            let pid = worker.process.as_ref().and_then(Process::pid);
            let limit = worker.pieces.front().and_then(|piece| self.jobs.get(&piece.job)?.task_timeout);
            let overdue = limit.filter(|_| matches!(at, Whereabouts::Overdue(_)));
            let (status, excess, expelled) = (worker.status, worker.excess, worker.expelled.take());
            let starting = worker.state == "starting" && overdue.is_none();
            let cause = match expelled.map(Cause::Expelled).or(worker.account.take().map(Cause::Told)) {
                Some(cause) => cause,
                None if status == Some(SIGKILLED) => self.cause_of_kill(),
                None => Cause::Unknown,
            };
            let death = Death { worker: id, pid, status, overdue, excess, cause };
            if starting {
                self.refusal = Some(Fault::Deaths(death.clone()));
            }
            self.last_death = Some(death);
        }
        let in_order = self.workers.get(&id).is_some_and(|worker| worker.state == "leaving");
        self.note(id, if in_order { Happening::Left } else { Happening::Died });
        self.remove(id);
        self.events.push_back(Event::Exited { worker: id, at, begun });
        // Told before anything else happens, so that the death is still the last one when its items are lost.
        self.settle();
        self.census.retried(self.scheduler.retried());
    }

    /// Who sent a SIGKILL that was not ours, as far as the kernel's counts tell.
    fn cause_of_kill(&mut self) -> Cause {
        let before = std::mem::replace(&mut self.memory_kills, MemoryKills::now());
        match self.memory_kills.since(before) {
            Some(place) => Cause::MemoryShort(place),
            None if self.memory_kills.is_counted() => Cause::Sent,
            None => Cause::Unknown,
        }
    }

    pub(super) fn remove(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.remove(&id) {
            self.by_serial.remove(&worker.serial);
            self.counters.messages_sent += worker.messages;
            for job in &worker.knows {
                if let Some(job) = self.jobs.get_mut(job) {
                    job.known_by.remove(&id);
                }
            }
            self.lay_to_rest(worker);
        }
    }
}
