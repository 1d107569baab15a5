//! What is done before a shutdown, and what that may come to.

use std::fmt::Display;

/// What work before a shutdown comes to: nothing, or a result, whose error is logged. Sealed.
///
/// ```
/// use workflow_otel::export::Telemetry;
///
/// # fn example(telemetry: &mut Telemetry) {
/// telemetry.before_shutdown(async { println!("the last words") });
/// telemetry.before_shutdown(async { std::fs::remove_file("worker.pid") });
/// # }
/// ```
pub trait WorkResult: sealed::WorkResult {}

impl WorkResult for () {}
impl<T, E: Display> WorkResult for Result<T, E> {}

mod sealed {
    use std::fmt::Display;

    pub trait WorkResult {
        /// What went wrong, in words.
        fn error(self) -> Option<String>;
    }

    impl WorkResult for () {
        fn error(self) -> Option<String> {
            None
        }
    }

    impl<T, E: Display> WorkResult for Result<T, E> {
        fn error(self) -> Option<String> {
            self.err().map(|error| error.to_string())
        }
    }
}
