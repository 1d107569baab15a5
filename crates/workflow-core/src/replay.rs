//! Whether workflow code repeats what an earlier execution of its run did.
//!
//! A replay runs the workflow's code from the start, so what the code does between steps happens again.
//! Who keeps a record of it (a log, say) asks [`is_replaying`] and leaves it out.
//!
//! It is a fact of the thread, not of the execution: between two lines of workflow code the same thread
//! polls interceptors, step functions and the engine, none of which repeat anything. In tasks that
//! workflow code spawns nothing is known, and the answer is no.
//!
//! ```
//! use workflow_core::replay;
//!
//! // An engine polls the code of a run that has history.
//! let code = replay::code(true);
//! assert!(replay::is_replaying());
//! {
//!     // The code polls a step, which is the engine's.
//!     let _aside = replay::aside();
//!     assert!(!replay::is_replaying());
//!     // The step has a result that no earlier execution observed.
//!     replay::over();
//! }
//! assert!(!replay::is_replaying());
//! drop(code);
//! ```

use std::cell::Cell;
use std::marker::PhantomData;

/// What a thread is at.
#[derive(Debug, Clone, Copy)]
struct At {
    /// Whether the workflow code that is polled has observed nothing new yet.
    replays: bool,
    /// How many parts of the engine, in each other, that code polls.
    aside: u32,
}

const ELSEWHERE: At = At {
    replays: false,
    aside: 0,
};

thread_local! {
    static AT: Cell<At> = const { Cell::new(ELSEWHERE) };
}

/// Whether this thread is at workflow code, between steps, that an earlier execution of the run came by:
/// before the first result that is not answered from history. Costs a look at a variable of the thread.
///
/// Not to steer a workflow by: what it does must be the same in every execution.
#[must_use]
pub fn is_replaying() -> bool {
    let at = AT.get();
    at.replays && at.aside == 0
}

/// This thread polls workflow code until the guard is dropped, code that `replays` or does not. For
/// engines.
pub fn code(replays: bool) -> Code {
    let before = AT.replace(At { replays, aside: 0 });
    Code {
        before,
        _of_thread: PhantomData,
    }
}

/// What this thread does until the guard is dropped is not the workflow's code, though that polls it: a
/// step, for one. For engines.
pub fn aside() -> Aside {
    let at = AT.get();
    AT.set(At {
        aside: at.aside + 1,
        ..at
    });
    Aside {
        _of_thread: PhantomData,
    }
}

/// The workflow code that this thread polls gets a result which no earlier execution observed: the replay
/// is over. For engines.
pub fn over() {
    AT.set(At {
        replays: false,
        ..AT.get()
    });
}

/// This thread polls workflow code while it lives; see [`code`].
#[derive(Debug)]
#[must_use = "the thread is elsewhere once it is dropped"]
pub struct Code {
    before: At,
    _of_thread: PhantomData<*const ()>,
}

impl Drop for Code {
    fn drop(&mut self) {
        AT.set(self.before);
    }
}

/// This thread is not at workflow code while it lives; see [`aside`].
#[derive(Debug)]
#[must_use = "the thread is back at the code once it is dropped"]
pub struct Aside {
    _of_thread: PhantomData<*const ()>,
}

impl Drop for Aside {
    fn drop(&mut self) {
        let at = AT.get();
        AT.set(At {
            aside: at.aside.saturating_sub(1),
            ..at
        });
    }
}
