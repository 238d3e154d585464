//! Workers that were given up before their processes have ended.
//!
//! After the first sign of a death the others are not waited for very long: calls go on without the worker. But until its
//! process has ended, SIGKILL or not, it may write to what it was lent, to its own blocks, and to its line of the scoreboard.
//! So all of that stays its own until its pidfd says that there is no process any more.

use super::Driver;
use crate::crew::Worker;
use crate::process::Process;
use rustix::event::epoll;

impl Driver {
    /// What becomes of a worker that nobody hears of any more.
    pub(super) fn lay_to_rest(&mut self, mut worker: Worker) {
        if worker.process.as_ref().is_some_and(Process::may_live) {
            worker.kill();
            // Not watched is as good as deleted.
            let _ = epoll::delete(&self.epoll, &worker);
            self.graves.insert(worker.serial, worker);
        } else {
            self.free_lines.push(worker.line);
        }
    }

    /// The process of one that was given up has ended.
    pub(super) fn close_grave(&mut self, serial: u64) {
        if let Some(worker) = self.graves.remove(&serial) {
            self.free_lines.push(worker.line);
        }
    }
}
