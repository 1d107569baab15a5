//! Words for rows.

use openworkflow::trace::StepState;

pub(super) fn word(state: StepState) -> &'static str {
    state.label()
}
