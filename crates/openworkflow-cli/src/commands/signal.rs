//! `signal`: a signal is sent.

use serde::Serialize;

use super::input;
use crate::args::SignalArgs;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::safe;

#[derive(Serialize)]
struct Sent<'a> {
    signal: &'a str,
    run_ids: &'a [String],
}

pub(crate) async fn send(
    connection: &Connection,
    args: SignalArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let data = input::read("the data", args.data.as_deref())?;
    let mut request = connection.client.send_signal(&*args.name, &data);
    if let Some(key) = args.key {
        request = request.idempotency_key(key);
    }
    if let Some(limit) = args.within {
        request = request.within(limit);
    }
    let run_ids = request.await?;
    if screen.json {
        let (signal, run_ids) = (&*args.name, &*run_ids);
        return screen.object(&Sent { signal, run_ids });
    }
    for id in &run_ids {
        screen.line(safe(id));
    }
    if run_ids.is_empty() {
        return screen.note(
            "nobody waits for this signal, so it is gone; with --within 1min it is sent until somebody does",
        );
    }
    Ok(())
}
