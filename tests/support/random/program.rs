//! What a random workflow does, as data, and how it is made up.

#![expect(missing_docs, reason = "what a variant says tells what its fields are")]

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// A workflow, to be given to [`PROGRAM`](super::PROGRAM) as its input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// A function step; a slow one is recorded as running first.
    Run { body: Body, slow: bool },
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

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Rendezvous {
    /// One branch to another.
    Siblings,
    /// A child to its parent.
    ChildSends,
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

/// Random programs.
///
/// Their results depend on nothing but themselves: not on how fast anything is, nor on how long a
/// crash holds the run up. That is why, of the branches of a `try_join`, one at most can fail.
pub fn programs() -> impl Strategy<Value = Program> {
    (block(3), "[a-z]{12}").prop_map(|(mut block, marker)| {
        tame(&mut block);
        number(&mut block, &mut 0);
        Program { marker, block }
    })
}

fn block(depth: u32) -> BoxedStrategy<Block> {
    let most = if depth == 3 { 6 } else { 4 };
    proptest::collection::vec(node(depth), 1..most).boxed()
}

fn node(depth: u32) -> BoxedStrategy<Node> {
    (op(depth), prop::bool::weighted(0.8))
        .prop_map(|(op, caught)| Node { id: 0, caught, op })
        .boxed()
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let leaf = prop_oneof![
        8 => (body(), prop::bool::weighted(0.05)).prop_map(|(body, slow)| Op::Run { body, slow }),
        2 => (2_u32..4).prop_map(|times| Op::Repeat { times }),
        4 => prop::sample::select(vec![0, 1, 1_000, 5_000, 3_600_000])
            .prop_map(|millis| Op::Sleep { millis }),
        2 => Just(Op::WaitForClient),
        2 => prop::sample::select(vec![0, 2_000, 60_000])
            .prop_map(|millis| Op::WaitInVain { millis }),
        1 => Just(Op::SendToNobody),
        1 => Just(Op::SlowChild),
        1 => any::<bool>().prop_map(|panics| Op::Fail { panics }),
        4 => prop::sample::select(vec![
            Rendezvous::Siblings,
            Rendezvous::ChildSends,
            Rendezvous::ChildWaits,
        ]).prop_map(Op::Meet),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let style = prop::sample::select(vec![
        JoinStyle::All,
        JoinStyle::Macro,
        JoinStyle::TryAll,
        JoinStyle::TryMacro,
    ]);
    let join = (style, proptest::collection::vec(block(depth - 1), 2..4)).prop_map(
        |(style, mut branches)| {
            if matches!(style, JoinStyle::Macro | JoinStyle::TryMacro) {
                branches.truncate(2);
            }
            Op::Join { style, branches }
        },
    );
    let child = (any::<bool>(), block(depth - 1))
        .prop_map(|(versioned, block)| Op::Child { versioned, block });
    prop_oneof![5 => leaf, 2 => child, 3 => join].boxed()
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        6 => Just(Body::Succeed),
        2 => (1_u32..3, any::<bool>()).prop_map(|(times, panics)| Body::FailFirst { times, panics }),
        1 => (1_u32..4, any::<bool>())
            .prop_map(|(attempts, panics)| Body::Exhaust { attempts, panics }),
        1 => Just(Body::Refuse),
    ]
}

/// Takes out what would make the result, or the history, a matter of chance.
fn tame(block: &mut Block) {
    for node in block {
        match &mut node.op {
            Op::Child { block, .. } => tame(block),
            Op::Join { style, branches } => {
                branches.iter_mut().for_each(tame);
                let tries = matches!(style, JoinStyle::TryAll | JoinStyle::TryMacro);
                branches
                    .iter_mut()
                    .for_each(|branch| tame_failures(branch, tries));
                if tries {
                    tame_branches(branches);
                }
            }
            _ => {}
        }
    }
}

/// An error of the workflow's own ends a `try_join` while steps beside it are at work, and a panic
/// ends the whole run: how far the others got is chance.
fn tame_failures(block: &mut Block, in_try: bool) {
    for node in block {
        match &mut node.op {
            Op::Fail { panics } => {
                *panics = false;
                node.caught |= in_try;
            }
            Op::Join { branches, .. } => {
                branches
                    .iter_mut()
                    .for_each(|branch| tame_failures(branch, in_try));
            }
            _ => {}
        }
    }
}

fn tame_branches(branches: &mut [Block]) {
    let mut one_fails = false;
    let mut one_is_woken = false;
    for branch in branches {
        let (another_fails, another_is_woken) = (one_fails, one_is_woken);
        one_fails |= fails(branch);
        one_is_woken |= is_woken(branch);
        if another_fails {
            branch.iter_mut().for_each(|node| node.caught = true);
        }
        // What is woken by others, without the clock being moved, goes on sooner or later than a
        // branch beside it that is woken so too.
        if another_is_woken {
            for node in branch.iter_mut() {
                if is_woken(std::slice::from_ref(node)) {
                    node.op = Op::Run {
                        body: Body::Succeed,
                        slow: false,
                    };
                }
            }
        }
    }
}

fn fails(block: &[Node]) -> bool {
    block.iter().any(|node| {
        !node.caught
            && match &node.op {
                Op::Run { body, .. } => matches!(body, Body::Exhaust { .. } | Body::Refuse),
                Op::Child { block, .. } => fails(block),
                Op::Join { style, branches } => {
                    matches!(style, JoinStyle::TryAll | JoinStyle::TryMacro)
                        && branches.iter().any(|branch| fails(branch))
                }
                Op::SlowChild | Op::Fail { .. } => true,
                _ => false,
            }
    })
}

fn is_woken(block: &[Node]) -> bool {
    block.iter().any(|node| match &node.op {
        Op::Child { .. } | Op::SlowChild | Op::Meet(_) | Op::Answer(_) => true,
        Op::Sleep { millis } | Op::WaitInVain { millis } => *millis == 0,
        Op::Join { branches, .. } => branches.iter().any(|branch| is_woken(branch)),
        _ => false,
    })
}

fn number(block: &mut Block, next: &mut u32) {
    for node in block {
        node.id = *next;
        *next += 1;
        match &mut node.op {
            Op::Child { block, .. } => number(block, next),
            Op::Join { branches, .. } => {
                branches.iter_mut().for_each(|branch| number(branch, next));
            }
            _ => {}
        }
    }
}
