//! How random programs are made up.

use proptest::prelude::*;

use super::program::{
    Block, Body, DrainStyle, FirstStyle, JoinStyle, Node, Op, Pace, Program, Rendezvous, Turn,
};

/// Random programs whose results are not left to chance.
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
        8 => (body(), prop::bool::weighted(0.05)).prop_map(|(body, slow)| {
            let pace = if slow { Pace::Nap { millis: 15 } } else { Pace::AtOnce };
            Op::Run { body, pace }
        }),
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
                        pace: Pace::AtOnce,
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
        for block in node.op.blocks_mut() {
            number(block, next);
        }
    }
}

/// Random programs that race: what they observe, and in which order, is left to chance.
pub fn racing_programs() -> impl Strategy<Value = Program> {
    (racing_block(2), "[a-z]{12}").prop_map(|(mut block, marker)| {
        observe_first(&mut block);
        number(&mut block, &mut 0);
        Program { marker, block }
    })
}

fn racing_block(depth: u32) -> BoxedStrategy<Block> {
    let most = if depth == 2 { 4 } else { 3 };
    proptest::collection::vec(racing_node(depth), 1..most).boxed()
}

fn racing_node(depth: u32) -> BoxedStrategy<Node> {
    (racing_op(depth), prop::bool::weighted(0.8))
        .prop_map(|(op, caught)| Node { id: 0, caught, op })
        .boxed()
}

fn racing_op(depth: u32) -> BoxedStrategy<Op> {
    let leaf = prop_oneof![
        8 => (body(), pace()).prop_map(|(body, pace)| Op::Run { body, pace }),
        1 => Just(Op::Repeat { times: 2 }),
        4 => prop::sample::select(vec![0, 1, 1_000, 1_000, 5_000, 3_600_000])
            .prop_map(|millis| Op::Sleep { millis }),
        3 => Just(Op::WaitForClient),
        2 => prop::sample::select(vec![0, 1_000, 60_000])
            .prop_map(|millis| Op::WaitInVain { millis }),
        1 => Just(Op::SendToNobody),
        1 => Just(Op::SlowChild),
        1 => prop::bool::weighted(0.2).prop_map(|panics| Op::Fail { panics }),
        3 => prop::sample::select(vec![
            Rendezvous::Siblings,
            Rendezvous::ChildSends,
            Rendezvous::ChildSendsAtOnce,
            Rendezvous::ChildWaits,
        ]).prop_map(Op::Meet),
        2 => (1_u32..4, prop::sample::select(vec![0, 1_000]))
            .prop_map(|(rounds, millis)| Op::Patience { rounds, millis }),
        4 => Just(Op::Depend),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let branches = move || proptest::collection::vec(racing_block(depth - 1), 2..4);
    let join = prop::sample::select(vec![
        JoinStyle::All,
        JoinStyle::Macro,
        JoinStyle::TryAll,
        JoinStyle::TryMacro,
    ]);
    let join = (join, branches()).prop_map(|(style, branches)| Op::Join { style, branches });
    let first = prop::sample::select(vec![
        FirstStyle::Select,
        FirstStyle::Biased,
        FirstStyle::Race,
        FirstStyle::Race,
    ]);
    let first = (first, branches()).prop_map(|(style, branches)| Op::First { style, branches });
    let drain = prop::sample::select(vec![
        DrainStyle::Unordered,
        DrainStyle::Ordered,
        DrainStyle::Set,
        DrainStyle::SelectAll,
        DrainStyle::BufferUnordered,
        DrainStyle::Buffered,
    ]);
    let turn = (
        proptest::collection::vec(racing_node(0), 0..3),
        proptest::option::of(racing_block(depth - 1)),
    );
    let turn = turn.prop_map(|(between, refill)| Turn { between, refill });
    let drain = (
        drain,
        branches(),
        proptest::collection::vec(turn, 0..3),
        proptest::option::weighted(0.2, 1_usize..3),
    )
        .prop_map(|(style, branches, turns, stop_after)| Op::Drain {
            style,
            branches,
            turns,
            stop_after,
        });
    let child = (any::<bool>(), racing_block(depth - 1))
        .prop_map(|(versioned, block)| Op::Child { versioned, block });
    prop_oneof![5 => leaf, 1 => child, 2 => join, 4 => first, 4 => drain].boxed()
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        3 => Just(Pace::AtOnce),
        2 => (1_u32..4).prop_map(|times| Pace::Yield { times }),
        3 => (1_u64..9).prop_map(|millis| Pace::Nap { millis }),
        1 => (12_u64..20).prop_map(|millis| Pace::Nap { millis }),
    ]
}

/// Two branches that end without having observed anything are ready at once, and which of them wins is
/// then `select!`'s to choose: nothing that a replay could repeat. So a branch begins with a step.
fn observe_first(block: &mut Block) {
    for node in block {
        for block in node.op.blocks_mut() {
            observe_first(block);
            if block.first().is_some_and(ends_unobserved) {
                block.insert(
                    0,
                    Node {
                        id: 0,
                        caught: true,
                        op: Op::Run {
                            body: Body::Succeed,
                            pace: Pace::AtOnce,
                        },
                    },
                );
            }
        }
    }
}

fn ends_unobserved(node: &Node) -> bool {
    matches!(node.op, Op::Fail { .. })
}
