//! `race!`: the first of several branches, and the waits of the others withdrawn.

use crate::WorkflowContext;

/// Awaits several branches and goes on with the one that ends first, as `tokio::select!` does, and
/// withdraws the waits of the others.
///
/// Begins with the workflow's context. Each branch is a pattern, a future and what to do with its
/// output; all of these expressions have the same type and may use `?` and `.await`. Of branches that
/// are ready at the same time the first wins. Which one wins is repeated by every replay, for this
/// macro and for `select!` alike.
///
/// The difference to `select!` is what becomes of the losers' waits. There they stay in the database,
/// abandoned: a signal sent to one of them counts as received, and nobody reads it. Here the rows of
/// signals, sleeps and children that were awaited are closed before the code goes on, so that a later
/// signal is told that nobody waits. A child run goes on. A function that was at work is dropped where
/// it is, as in `select!`.
///
/// ```
/// # use openworkflow::Workflow;
/// # let _ = Workflow::new("w", |wf, order: String| async move {
/// let paid: Option<u64> = openworkflow::race!(wf;
///     amount = wf.wait_for_signal(format!("paid:{order}")) => amount?,
///     slept = wf.sleep("patience", "3 days") => {
///         slept?;
///         None
///     },
/// );
/// # Ok(paid) });
/// ```
#[macro_export]
macro_rules! race {
    (@branches $wf:expr, [$($done:tt)*] $output:pat = $branch:expr => $then:expr, $($rest:tt)*) => {
        $crate::race!(@branches $wf, [$($done)* (branch, output, $output, $branch, $then)] $($rest)*)
    };
    (@branches $wf:expr, [$(($branch:ident, $output:ident, $pattern:pat, $future:expr, $then:expr))+]) => {{
        $(let mut $output = ::core::option::Option::None;)+
        {
            $(let mut $branch = ::core::option::Option::Some(
                $crate::__race::boxed($future),
            );)+
            ::core::future::poll_fn(|cx| {
                $(if let ::core::option::Option::Some(branch) = &mut $branch
                    && let ::core::task::Poll::Ready(value) =
                        ::core::future::Future::poll(branch.as_mut(), cx)
                {
                    $output = ::core::option::Option::Some(value);
                    return ::core::task::Poll::Ready(());
                })+
                ::core::task::Poll::Pending
            })
            .await;
            $(if $output.is_some() {
                $branch = ::core::option::Option::None;
            })+
            $crate::__race::withdraw(&$wf, move || {
                $(::core::mem::drop($branch);)+
            })
            .await;
        }
        $crate::race!(@then $(($output, $pattern, $then))+)
    }};
    (@then ($output:ident, $pattern:pat, $then:expr) $($rest:tt)*) => {
        match $output {
            ::core::option::Option::Some(value) => {
                let $pattern = value;
                $then
            }
            ::core::option::Option::None => $crate::race!(@then $($rest)*),
        }
    };
    (@then) => {
        ::core::unreachable!("a race ends with a winner")
    };
    ($wf:expr; $($output:pat = $branch:expr => $then:expr),+ $(,)?) => {
        $crate::race!(@branches $wf, [] $($output = $branch => $then,)+)
    };
}

/// What the macro expands to.
#[doc(hidden)]
pub mod macros {
    use std::future::IntoFuture;
    use std::pin::Pin;

    use super::WorkflowContext;

    pub fn boxed<F: IntoFuture>(branch: F) -> Pin<Box<F::IntoFuture>> {
        Box::pin(branch.into_future())
    }

    pub async fn withdraw(wf: &WorkflowContext, drop_losers: impl FnOnce()) {
        wf.withdraw(drop_losers).await;
    }
}
