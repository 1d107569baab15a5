//! The `process-order` workflow that several examples (and the tests of this repository) run.
//!
//! It validates an order, has a child workflow ship it, waits for the customer's confirmation, cools
//! down, and notifies the customer, which fails at first and is tried again. That makes five
//! executions of the parent and one of the child.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openworkflow::{Client, ClientResult, Error, Workflow, WorkflowSpec};
use serde::{Deserialize, Serialize};

/// What a customer ordered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The order's number.
    pub id: String,
    /// How many pieces of what.
    pub items: Vec<(String, u32)>,
    /// Where to write to.
    pub email: String,
}

impl Order {
    /// An order to play with.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            id: "4711".to_owned(),
            items: vec![("teapot".to_owned(), 1), ("cup".to_owned(), 6)],
            email: "ada@example.com".to_owned(),
        }
    }

    /// The signal by which the customer confirms this order.
    #[must_use]
    pub fn confirmation(&self) -> String {
        format!("confirmed:{}", self.id)
    }
}

/// A parcel under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// The number to follow it by.
    pub tracking: String,
}

/// How an order ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The order's number.
    pub order_id: String,
    /// The parcel's number.
    pub tracking: String,
    /// Who confirmed, if anybody did in time.
    pub confirmed_by: Option<String>,
}

/// Takes an order through to the end.
pub static PROCESS_ORDER: WorkflowSpec<Order, Receipt> = WorkflowSpec::new("process-order");
/// Ships an order, by its number.
pub static FULFILL_SHIPMENT: WorkflowSpec<String, Shipment> = WorkflowSpec::new("fulfill-shipment");

/// The implementation of [`PROCESS_ORDER`], with a pause of `cooldown` before the customer is told.
#[must_use]
pub fn process_order(cooldown: Duration) -> Workflow {
    // Stands for a mail server that does not answer at first.
    let mail_server_is_up = Arc::new(AtomicBool::new(false));
    PROCESS_ORDER.implement(move |wf, order: Order| {
        let mail_server_is_up = Arc::clone(&mail_server_is_up);
        async move {
            wf.run("validate-order", || async { validate(&order) })
                .await?;
            let shipment = wf.run_workflow(&FULFILL_SHIPMENT, &order.id).await?;
            let confirmed_by: Option<String> = wf
                .wait_for_signal(order.confirmation())
                .timeout("1h")
                .await?;
            wf.sleep("cooldown", cooldown).await?;
            wf.run("notify-customer", || async {
                if mail_server_is_up.swap(true, Ordering::Relaxed) {
                    return Ok(());
                }
                Err(Error::new(
                    "MailServerDown",
                    "the mail server does not answer",
                ))
            })
            .await?;
            Ok(Receipt {
                order_id: order.id,
                tracking: shipment.tracking,
                confirmed_by,
            })
        }
    })
}

fn validate(order: &Order) -> openworkflow::Result<()> {
    if order.items.is_empty() {
        // Trying again would not fill the order.
        return Err(Error::new("EmptyOrder", "nothing was ordered").non_retryable());
    }
    Ok(())
}

/// The implementation of [`FULFILL_SHIPMENT`].
#[must_use]
pub fn fulfill_shipment() -> Workflow {
    FULFILL_SHIPMENT.implement(|wf, order_id: String| async move {
        let shelf = wf
            .run("reserve-inventory", || async { Ok("B7".to_owned()) })
            .await?;
        wf.run("dispatch-courier", || async {
            Ok(Shipment {
                tracking: format!("{order_id}-{shelf}"),
            })
        })
        .await
    })
}

/// Plays the customer: confirms the order as soon as its workflow waits for that.
///
/// # Errors
///
/// As [`Client::send_signal`].
pub async fn confirm(client: &Client, order: &Order) -> ClientResult<()> {
    // A signal reaches those who wait, so it is sent until somebody does.
    client
        .send_signal(order.confirmation(), &order.email)
        .until_received()
        .await?;
    Ok(())
}
