//! What a random workflow does, as data.

#![expect(missing_docs, reason = "what a variant says tells what its fields are")]

use std::fmt;

use serde::{Deserialize, Serialize};

/// A workflow, to be given to [`PROGRAM`](super::PROGRAM) as its input.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Put into every payload that the program makes, so that a leak of one can be found.
    pub marker: String,
    /// What the root run does.
    pub block: Block,
}

/// One thing after the other.
pub type Block = Vec<Node>;

/// One thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the program; the names of steps and signals are made of it.
    pub id: u32,
    /// Whether the workflow goes on when this fails.
    pub caught: bool,
    /// What it does.
    pub op: Op,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// A function step.
    Run { body: Body, pace: Pace },
    /// Several function steps under one name.
    Repeat { times: u32 },
    /// A sleep.
    Sleep { millis: u64 },
    /// A child workflow.
    Child { versioned: bool, block: Block },
    /// A child workflow that takes longer than its parent waits.
    SlowChild,
    /// A wait for a signal that the client sends.
    WaitForClient,
    /// A wait for a signal that nobody sends.
    WaitInVain { millis: u64 },
    /// A signal that nobody waits for.
    SendToNobody,
    /// A wait and a signal within the program.
    Meet(Rendezvous),
    /// The child's side of a rendezvous.
    Answer(Rendezvous),
    /// Branches side by side.
    Join {
        style: JoinStyle,
        branches: Vec<Block>,
    },
    /// The first of several branches.
    First {
        style: FirstStyle,
        branches: Vec<Block>,
    },
    /// Branches in a collection that is drained.
    Drain {
        style: DrainStyle,
        branches: Vec<Block>,
        /// What happens after the first item, the second, and so on.
        turns: Vec<Turn>,
        /// After how many items the rest is dropped.
        stop_after: Option<usize>,
    },
    /// A wait for a signal that the client sends, again and again, each time raced by a sleep.
    Patience { rounds: u32, millis: u64 },
    /// A step whose kind and name depend on all that was observed before.
    Depend,
    /// An error, or a panic, of the workflow's own code.
    Fail { panics: bool },
}

/// What the function of a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Returns.
    Succeed,
    /// Fails a few times, then returns.
    FailFirst { times: u32, panics: bool },
    /// Fails until its policy gives up.
    Exhaust { attempts: u32, panics: bool },
    /// Fails with an error that is not to be tried again.
    Refuse,
}

/// How long a function takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// It is done when it is first polled.
    AtOnce,
    /// It yields so often.
    Yield { times: u32 },
    /// It takes its time; from 10 ms on it is recorded as running first.
    Nap { millis: u64 },
}

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Rendezvous {
    /// One branch to another.
    Siblings,
    /// A child to its parent.
    ChildSends,
    /// The same, as soon as it begins.
    ChildSendsAtOnce,
    /// A parent to its child.
    ChildWaits,
}

/// How branches are awaited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum JoinStyle {
    /// `join_all`.
    All,
    /// `tokio::join!`.
    Macro,
    /// `try_join_all`.
    TryAll,
    /// `tokio::try_join!`.
    TryMacro,
}

/// How the first of several branches is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum FirstStyle {
    /// `tokio::select!`, in any order.
    Select,
    /// `tokio::select!` with `biased`.
    Biased,
    /// `openworkflow::race!`.
    Race,
}

/// What a collection is drained by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum DrainStyle {
    /// `FuturesUnordered`.
    Unordered,
    /// `FuturesOrdered`.
    Ordered,
    /// `openworkflow::JoinSet`.
    Set,
    /// `select_all`, again and again.
    SelectAll,
    /// `buffer_unordered`, two at a time.
    BufferUnordered,
    /// `buffered`, two at a time.
    Buffered,
}

/// What happens while a collection is drained, before its next item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Done while nobody polls the collection.
    pub between: Block,
    /// Put into the collection then.
    pub refill: Option<Block>,
}

impl Op {
    /// The blocks within.
    pub fn blocks(&self) -> Vec<&Block> {
        match self {
            Self::Child { block, .. } => vec![block],
            Self::Join { branches, .. } | Self::First { branches, .. } => branches.iter().collect(),
            Self::Drain {
                branches, turns, ..
            } => {
                let turns = turns.iter().flat_map(Turn::blocks);
                branches.iter().chain(turns).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The same, to be changed.
    pub fn blocks_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Self::Child { block, .. } => vec![block],
            Self::Join { branches, .. } | Self::First { branches, .. } => {
                branches.iter_mut().collect()
            }
            Self::Drain {
                branches, turns, ..
            } => {
                let turns = turns
                    .iter_mut()
                    .flat_map(|turn| [Some(&mut turn.between), turn.refill.as_mut()])
                    .flatten();
                branches.iter_mut().chain(turns).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Turn {
    fn blocks(&self) -> impl Iterator<Item = &Block> {
        [Some(&self.between), self.refill.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// As its JSON, which is read more easily than a page for each node.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl Program {
    /// Whether it is chance what the program observes, and in which order: only that a replay repeats it
    /// is not.
    #[must_use]
    pub fn is_left_to_chance(&self) -> bool {
        fn of(block: &Block) -> bool {
            block.iter().any(|node| match &node.op {
                Op::First { .. } | Op::Drain { .. } | Op::Patience { .. } | Op::Depend => true,
                op => op.blocks().into_iter().any(of),
            })
        }
        of(&self.block)
    }
}
