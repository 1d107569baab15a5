//! How a random workflow awaits several branches.

use futures_util::future::{join_all, select_all, try_join_all};
use futures_util::stream::{self, BoxStream, FuturesOrdered, FuturesUnordered, StreamExt};
use openworkflow::{BoxFuture, JoinSet, Result, race};
use serde_json::{Value, json};

use super::observed::told;
use super::program::{Block, DrainStyle, FirstStyle, JoinStyle, Op, Turn};
use super::workflow::{DAY, Env};

impl Env {
    pub(super) async fn join(&self, style: JoinStyle, branches: &[Block]) -> Result<Value> {
        let told = |result: Result<Value>| match result {
            Ok(value) => value,
            Err(error) => json!({ "kind": error.kind().as_str(), "message": error.message() }),
        };
        let all = branches.iter().map(|branch| self.block(branch));
        Ok(match (style, branches) {
            (JoinStyle::Macro, [one, two]) => {
                let (one, two) = tokio::join!(self.block(one), self.block(two));
                json!([told(one), told(two)])
            }
            (JoinStyle::TryMacro, [one, two]) => {
                let (one, two) = tokio::try_join!(self.block(one), self.block(two))?;
                json!([one, two])
            }
            (JoinStyle::TryAll | JoinStyle::TryMacro, _) => try_join_all(all).await?.into(),
            _ => join_all(all).await.into_iter().map(told).collect(),
        })
    }

    pub(super) async fn first(&self, style: FirstStyle, branches: &[Block]) -> Result<Value> {
        let wf = &self.wf;
        let branch = |nth: usize| async move { (nth, self.block(&branches[nth]).await) };
        let (winner, result) = match (style, branches.len()) {
            (FirstStyle::Select, 2) => tokio::select! {
                ended = branch(0) => ended,
                ended = branch(1) => ended,
            },
            (FirstStyle::Select, _) => tokio::select! {
                ended = branch(0) => ended,
                ended = branch(1) => ended,
                ended = branch(2) => ended,
            },
            (FirstStyle::Biased, 2) => tokio::select! {
                biased;
                ended = branch(0) => ended,
                ended = branch(1) => ended,
            },
            (FirstStyle::Biased, _) => tokio::select! {
                biased;
                ended = branch(0) => ended,
                ended = branch(1) => ended,
                ended = branch(2) => ended,
            },
            (FirstStyle::Race, 2) => race!(wf;
                ended = branch(0) => ended,
                ended = branch(1) => ended,
            ),
            (FirstStyle::Race, _) => race!(wf;
                ended = branch(0) => ended,
                ended = branch(1) => ended,
                ended = branch(2) => ended,
            ),
        };
        if style == FirstStyle::Race {
            let losers = branches.iter().enumerate();
            for (_, loser) in losers.filter(|(nth, _)| *nth != winner) {
                let mut nodes = Vec::new();
                hold(loser, &mut nodes);
                self.world.have_lost(self.wf.run_id(), nodes);
            }
        }
        Ok(json!([winner, result?]))
    }

    /// A wait that lost is closed, so the next one for the same signal is not refused.
    pub(super) async fn patience(&self, id: u32, rounds: u32, millis: u64) -> Result<Value> {
        for round in 0..rounds {
            let (wait, nap) = (format!("wait-{id}-{round}"), format!("nap-{id}-{round}"));
            let heard = race!(self.wf;
                heard = self.wait(wait, format!("client:{id}"), 365 * DAY) => Some(heard?),
                napped = self.sleep(nap, millis) => {
                    napped?;
                    None
                },
            );
            if heard.is_some() {
                return Ok(json!([round, heard]));
            }
        }
        Ok(Value::Null)
    }

    pub(super) async fn drain(
        &self,
        style: DrainStyle,
        branches: &[Block],
        turns: &[Turn],
        stop_after: Option<usize>,
    ) -> Result<Value> {
        let branch = |(nth, block)| -> Branch<'_> {
            Box::pin(async move { (nth, told(&self.block(block).await)) })
        };
        let refills = turns.iter().filter_map(|turn| turn.refill.as_ref());
        let mut refills = refills
            .zip(branches.len()..)
            .map(|(block, nth)| (nth, block));
        let branches = branches.iter().enumerate().map(branch);
        let mut collection = match style {
            DrainStyle::Unordered => Collection::Unordered(branches.collect()),
            DrainStyle::Ordered => Collection::Ordered(branches.collect()),
            DrainStyle::SelectAll => Collection::SelectAll(branches.collect()),
            DrainStyle::Set => {
                let mut set = JoinSet::new();
                branches.for_each(|branch| set.spawn(branch));
                Collection::Set(set)
            }
            DrainStyle::BufferUnordered | DrainStyle::Buffered => {
                let all: Vec<_> = branches.chain(refills.by_ref().map(branch)).collect();
                Collection::Stream(if style == DrainStyle::Buffered {
                    stream::iter(all).buffered(2).boxed()
                } else {
                    stream::iter(all).buffer_unordered(2).boxed()
                })
            }
        };
        let mut ended = Vec::new();
        let mut turns = turns.iter();
        while let Some((nth, outcome)) = collection.next().await {
            ended.push(json!([nth, outcome]));
            if stop_after == Some(ended.len()) {
                break;
            }
            if let Some(turn) = turns.next() {
                ended.push(self.block(&turn.between).await?);
                if turn.refill.is_some()
                    && let Some(refill) = refills.next()
                {
                    collection.push(branch(refill));
                }
            }
        }
        Ok(ended.into())
    }
}

type Branch<'a> = BoxFuture<'a, (usize, Value)>;

enum Collection<'a> {
    Unordered(FuturesUnordered<Branch<'a>>),
    Ordered(FuturesOrdered<Branch<'a>>),
    Set(JoinSet<'a, (usize, Value)>),
    SelectAll(Vec<Branch<'a>>),
    Stream(BoxStream<'a, (usize, Value)>),
}

impl<'a> Collection<'a> {
    async fn next(&mut self) -> Option<(usize, Value)> {
        match self {
            Self::Unordered(branches) => branches.next().await,
            Self::Ordered(branches) => branches.next().await,
            Self::Set(branches) => branches.join_next().await,
            Self::Stream(branches) => branches.next().await,
            Self::SelectAll(branches) if branches.is_empty() => None,
            Self::SelectAll(branches) => {
                let (ended, _, others) = select_all(std::mem::take(branches)).await;
                *branches = others;
                Some(ended)
            }
        }
    }

    fn push(&mut self, branch: Branch<'a>) {
        match self {
            Self::Unordered(branches) => branches.push(branch),
            Self::Ordered(branches) => branches.push_back(branch),
            Self::Set(branches) => branches.spawn(branch),
            Self::SelectAll(branches) => branches.push(branch),
            // It has all of them from the beginning.
            Self::Stream(_) => {}
        }
    }
}

/// The nodes whose waits the code cannot have dropped as long as it holds the block.
fn hold(block: &Block, nodes: &mut Vec<u32>) {
    for node in block {
        nodes.push(node.id);
        let drops = match &node.op {
            Op::Child { .. } => true,
            Op::Join { style, .. } => matches!(style, JoinStyle::TryAll | JoinStyle::TryMacro),
            Op::First { style, .. } => *style != FirstStyle::Race,
            Op::Drain { .. } => true,
            _ => false,
        };
        if !drops {
            for block in node.op.blocks() {
                hold(block, nodes);
            }
        }
    }
}
