//! Whether the workflow's code still polls a future that it holds.
//!
//! Code may hold a step's future without polling it: a branch of a collection while the loop around it
//! awaits something else. Such a step makes no progress, so nothing may wait for it. Who wants to know
//! wakes it and looks whether the next poll of the code comes by.

use std::task::Waker;

/// How long what was seen holds: until the code asks for a step, drops one, or observes a result. In
/// between it awaits the same things.
pub(super) type Epoch = u64;

/// What is known of one future.
#[derive(Debug, Default)]
pub(super) struct Attention {
    waker: Option<Waker>,
    seen: Option<Epoch>,
    probe: Option<(Epoch, Probe)>,
    /// Whether another task polls it, whose doings cannot be followed.
    elsewhere: bool,
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    /// It was woken, and the code was polled since.
    Woken,
    /// It was woken once more, and the runtime had its turn: what postpones wake-ups has run.
    WokenAgain,
    /// The code does not poll it.
    GivenUp,
}

/// The answer to whether the code polls a future.
#[derive(Debug)]
pub(super) enum Polled {
    Yes,
    No,
    /// Unknown: wake it and poll the code.
    Wake(Option<Waker>),
    /// Unknown: wake it, let the runtime have its turn, and poll the code.
    WakeAndYield(Option<Waker>),
}

impl Attention {
    /// The future is being polled, and stays pending.
    pub(super) fn sighted(&mut self, epoch: Epoch, waker: &Waker, elsewhere: bool) {
        self.seen = Some(epoch);
        self.elsewhere = elsewhere;
        match &mut self.waker {
            Some(known) if known.will_wake(waker) => {}
            known => *known = Some(waker.clone()),
        }
    }

    /// Forgets what was seen, so that only the next poll counts, and gives the waker for it.
    pub(super) fn call(&mut self, epoch: Epoch) -> Option<Waker> {
        self.seen = None;
        self.probe = Some((epoch, Probe::Woken));
        self.waker.clone()
    }

    /// Whether the code polls it. To be asked when the code is pending and nobody was woken.
    pub(super) fn polled(&mut self, epoch: Epoch) -> Polled {
        if self.elsewhere || self.seen == Some(epoch) {
            return Polled::Yes;
        }
        let probe = self.probe.filter(|(of, _)| *of == epoch);
        let (next, answer) = match probe {
            None => (Probe::Woken, Polled::Wake(self.waker.clone())),
            Some((_, Probe::Woken)) => {
                (Probe::WokenAgain, Polled::WakeAndYield(self.waker.clone()))
            }
            Some((_, Probe::WokenAgain | Probe::GivenUp)) => (Probe::GivenUp, Polled::No),
        };
        self.probe = Some((epoch, next));
        answer
    }

    /// Whether the answer was that the code does not poll it.
    pub(super) fn is_given_up(&self, epoch: Epoch) -> bool {
        matches!(self.probe, Some((of, Probe::GivenUp)) if of == epoch) && self.seen != Some(epoch)
    }
}
