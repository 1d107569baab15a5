//! Whether the database answers, asked by one for all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::backend::{Backend, BackendResult};

/// How long an answer is good for.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What came of a question.
#[derive(Clone)]
pub(super) enum Answer {
    After(Duration),
    /// There is none yet.
    NoneFor(Duration),
    Failed(String),
}

/// Asks one question at a time, however many want to know: a database that hangs must not have a queue of
/// them.
#[derive(Default)]
pub(super) struct Probe(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<(Instant, Answer)>,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    asked: Instant,
    answer: JoinHandle<(BackendResult<()>, Duration)>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

impl Probe {
    pub(super) async fn ask(&self, backend: &Arc<dyn Backend>, patience: Duration) -> Answer {
        let mut state = self.0.lock().await;
        if let Some((at, answer)) = &state.last
            && at.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let under_way = state.under_way.get_or_insert_with(|| {
            let backend = Arc::clone(backend);
            let asked = Instant::now();
            UnderWay {
                asked,
                answer: tokio::spawn(async move {
                    let answer = backend.ping().await;
                    (answer, asked.elapsed())
                }),
            }
        });
        let left = patience.saturating_sub(under_way.asked.elapsed());
        let answer = match tokio::time::timeout(left, &mut under_way.answer).await {
            // It goes on, and may be heard by the next who asks.
            Err(_) => Answer::NoneFor(under_way.asked.elapsed()),
            Ok(answered) => {
                state.under_way = None;
                match answered {
                    Ok((Ok(()), took)) => Answer::After(took),
                    Ok((Err(error), _)) => Answer::Failed(error.to_string()),
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
        };
        state.last = Some((Instant::now(), answer.clone()));
        answer
    }
}
