//! Whether the books balance: every sum of the agent, from the bytes that the kernel moved to the spans that
//! a destination took.
//! ```text
//!   kernel: moved = captured + left out      stream: captured = passed + discarded + held
//!     captured = stream's + left out between   passed + gaps = tls's moved
//!   tls: moved = passed + opened + …
//!     passed + plaintext + missing = exchange's moved
//!   exchange: moved = parsed + …             protocol: read + missing = exchange's parsed
//!     opened = stitch's exchanges            stitch: exchanges = spans + …
//!       spans = terminal's ended,  spans × destinations = export's offered
//! ```
//! Pure. It must never forgive a difference: a sum that does not hold is a fault of the agent, whichever way it
//! is off. Counters of the kernel side go on while one looks, so the sums that they are in hold only once
//! the programs are detached and the ring has been emptied.

use spandrel_proto::counter::Counter as KernelCounter;

use super::{Books, Exported, Kernel};
use crate::discover::table as discover;
use crate::export::terminal;
use crate::protocol::{fastcgi, http1, http2};
use crate::stitch::ledger as stitch;
use crate::{exchange, export, intake, pipeline, stream, tls};

/// A sentence for each sum that does not hold; none if all do.
pub fn imbalances(books: &Books) -> Vec<String> {
    let Books {
        kernel,
        intake,
        pipeline,
        stream,
        tls,
        keys: _,
        clear,
        parsers,
        exchange,
        stitch,
        failed_connects,
        discover,
        sessions: _,
        secrets: _,
        tables: _,
        runtimes: _,
        terminal,
        export,
    } = books;
    let mut found = Found(Vec::new());
    if let Some(kernel) = kernel {
        found.kernel(kernel);
        found.kernel_to_stream(kernel, intake, pipeline, stream);
    }
    found.stream(stream);
    found.stream_to_tls(stream, tls);
    found.tls_to_exchange(tls, exchange);
    found.clear(clear);
    found.exchange(exchange);
    let parsed = [("got by parsers", parsers.bytes())];
    found.sum("exchange, bytes parsed", exchange.bytes_parsed, &parsed);
    let exchange::Parsers { http1, http2, fastcgi } = parsers;
    found.http1(http1);
    found.http2(http2);
    found.fastcgi(fastcgi);
    found.stitch(stitch, exchange);
    let unowned = failed_connects.iter().map(|(_, count)| count).sum();
    found.sum("stitch, connects of no request", stitch.connects.alone, &[("by destination", unowned)]);
    found.discover(discover);
    if let Some(terminal) = terminal {
        found.terminal(terminal, stitch);
    }
    if let Some(export) = export {
        found.export(export, stitch);
    }
    found.0
}

struct Found(Vec<String>);

impl Found {
    /// `whole` must be the sum of `parts`.
    fn sum(&mut self, what: &str, whole: u64, parts: &[(&str, u64)]) {
        let sum: u128 = parts.iter().map(|(_, value)| u128::from(*value)).sum();
        if u128::from(whole) == sum {
            return;
        }
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, value)| *value > 0 || parts.len() == 1)
            .map(|(name, value)| format!("{value} {name}"))
            .collect();
        let shown = if shown.is_empty() { "nothing".to_owned() } else { shown.join(" + ") };
        let difference = match u128::from(whole).checked_sub(sum) {
            Some(missing) => format!("{missing} unaccounted for"),
            None => format!("{} too many", sum - u128::from(whole)),
        };
        self.0.push(format!("the books do not balance: {what}: {whole} are not {shown}: {difference}"));
    }

    fn kernel(&mut self, kernel: &Kernel) {
        let moved = kernel
            .get(KernelCounter::BytesMovedSend)
            .saturating_add(kernel.get(KernelCounter::BytesMovedReceive));
        let left_out = KernelCounter::ALL
            .into_iter()
            .filter(|(_, name, _)| *name == "spandrel_kernel_left_out_bytes_total")
            .map(|(counter, _, cause)| (cause.unwrap_or("left out"), kernel.get(counter)));
        let captured = ("captured", kernel.get(KernelCounter::BytesCaptured));
        let parts: Vec<_> = std::iter::once(captured).chain(left_out).collect();
        self.sum("kernel, bytes moved", moved, &parts);
        let unseen = kernel.unseen_calls.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let no_buffer = kernel.get(KernelCounter::BytesUnseen);
        self.sum("kernel, bytes without a readable buffer", no_buffer, &[("by system call", unseen)]);
    }

    fn kernel_to_stream(
        &mut self,
        kernel: &Kernel,
        intake: &intake::Ledger,
        pipeline: &pipeline::Ledger,
        stream: &stream::Ledger,
    ) {
        let intake::Ledger { records, early: _, early_bytes, undecodable: _, undecodable_bytes } = *intake;
        let written = kernel.get(KernelCounter::Records);
        self.sum("records written into the ring", written, &[("taken out", records)]);
        let pipeline::Ledger { not_selected_records: _, not_selected_bytes } = *pipeline;
        // How many of the traffic's bytes an undecodable record held is not known, only that not more.
        let captured = kernel.get(KernelCounter::BytesCaptured);
        let came = stream.captured.saturating_add(early_bytes).saturating_add(not_selected_bytes);
        let undecodable = captured.saturating_sub(came).min(undecodable_bytes);
        let parts = [
            ("that came to the streams", stream.captured),
            ("early", early_bytes),
            ("not selected", not_selected_bytes),
            ("undecodable", undecodable),
        ];
        self.sum("bytes captured by the kernel side", captured, &parts);
    }

    fn stream(&mut self, stream: &stream::Ledger) {
        let stream::Ledger {
            captured,
            passed,
            discarded,
            held,
            gaps: _,
            unread: _,
            opened: _,
            closed: _,
            evicted: _,
            aged: _,
            left_out: _,
            joined: _,
        } = *stream;
        let parts = [("passed on", passed), ("discarded", discarded), ("held", held)];
        self.sum("stream, bytes captured", captured, &parts);
    }

    fn stream_to_tls(&mut self, stream: &stream::Ledger, tls: &tls::Ledger) {
        let gaps = stream.gaps.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = [("passed on by the streams", stream.passed), ("in gaps", gaps)];
        self.sum("tls, bytes moved", tls.moved, &parts);
    }

    fn clear(&mut self, clear: &tls::clear::Ledger) {
        let tls::clear::Ledger {
            moved,
            passed,
            unknown,
            ambiguous,
            misplaced,
            held,
            lost: _,
            counted: _,
            uncounted: _,
        } = *clear;
        let parts = [
            ("passed on", passed),
            ("of unknown sessions", unknown),
            ("of ambiguous sessions", ambiguous),
            ("misplaced", misplaced),
            ("held", held),
        ];
        self.sum("tls, bytes that probes have read", moved, &parts);
    }

    fn tls_to_exchange(&mut self, tls: &tls::Ledger, exchange: &exchange::Ledger) {
        let tls::Ledger {
            moved,
            passed,
            opened,
            handshake,
            sealed,
            held,
            plaintext,
            missing,
            on_trust: _,
            sessions: _,
            sessions_opened: _,
            resynchronised: _,
            key_updates: _,
            waiting_cut: _,
            mistaken: _,
        } = *tls;
        let sealed = sealed.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = [
            ("passed on", passed),
            ("opened", opened),
            ("of handshakes", handshake),
            ("sealed", sealed),
            ("held", held),
        ];
        self.sum("tls, bytes moved", moved, &parts);
        let parts = [("passed on", passed), ("decrypted", plaintext), ("missing inside TLS", missing)];
        self.sum("exchange, bytes moved", exchange.bytes, &parts);
    }

    fn exchange(&mut self, exchange: &exchange::Ledger) {
        let exchange::Ledger {
            bytes,
            bytes_parsed,
            bytes_unrecognised,
            bytes_other,
            bytes_late,
            bytes_held,
            requests,
            requests_refused,
            requests_unproven,
            opened,
            complete,
            incomplete,
            connection_reset,
            timed_out,
            connection_closed,
            cancelled,
            process_exited,
            socket_error,
            stream_reset,
            refused,
            open,
            responses,
            responses_paired,
            responses_without_request,
            tables_restored: _,
            tables_ambiguous: _,
            tables_unfound: _,
            exchanges_recalled: _,
            ends_clamped: _,
        } = *exchange;
        let parts = [
            ("parsed", bytes_parsed),
            ("unrecognised", bytes_unrecognised),
            ("of other protocols", bytes_other),
            ("late", bytes_late),
            ("held", bytes_held),
        ];
        self.sum("exchange, bytes", bytes, &parts);
        let parts = [("opened", opened), ("refused", requests_refused), ("unproven", requests_unproven)];
        self.sum("exchange, requests", requests, &parts);
        let parts = [
            ("complete", complete),
            ("incomplete", incomplete),
            ("reset", connection_reset),
            ("timed out", timed_out),
            ("closed", connection_closed),
            ("cancelled", cancelled),
            ("of dead processes", process_exited),
            ("with socket errors", socket_error),
            ("reset streams", stream_reset),
            ("refused", refused),
            ("open", open),
        ];
        self.sum("exchange, exchanges opened", opened, &parts);
        let parts = [("paired", responses_paired), ("without request", responses_without_request)];
        self.sum("exchange, responses", responses, &parts);
    }

    fn http1(&mut self, http1: &http1::Ledger) {
        let http1::Ledger {
            bytes,
            head,
            body,
            framing,
            switched,
            held,
            unparsed,
            gap,
            gap_body,
            gap_lost,
            fields_cut: _,
            fields_dropped: _,
        } = http1;
        let unparsed = unparsed.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = [
            ("of heads", *head),
            ("of bodies", *body),
            ("of framing", *framing),
            ("switched", *switched),
            ("held", *held),
            ("unparsed", unparsed),
        ];
        self.sum("protocol, bytes read", *bytes, &parts);
        self.sum("protocol, bytes missing", *gap, &[("in bodies", *gap_body), ("lost", *gap_lost)]);
    }

    fn fastcgi(&mut self, fastcgi: &fastcgi::Ledger) {
        let &fastcgi::Ledger {
            bytes,
            framing,
            head,
            body,
            unparsed,
            gap,
            gap_body,
            gap_lost,
            lost: _,
            params_cut: _,
            fields_cut: _,
        } = fastcgi;
        let parts =
            [("of framing", framing), ("of heads", head), ("of bodies", body), ("unparsed", unparsed)];
        self.sum("protocol, bytes read of FastCGI", bytes, &parts);
        let parts = [("in bodies", gap_body), ("lost", gap_lost)];
        self.sum("protocol, bytes missing of FastCGI", gap, &parts);
    }

    fn http2(&mut self, http2: &http2::Ledger) {
        let http2::Ledger {
            bytes,
            framing,
            head,
            body,
            unparsed,
            gap,
            gap_body,
            gap_lost,
            frames: _,
            blocks: _,
            blocks_unread: _,
            fields_unknown: _,
            fields_cut: _,
            fields_dropped: _,
            aligned: _,
            lost: _,
        } = http2;
        let unparsed = unparsed.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = [
            ("of framing", *framing),
            ("of header blocks", *head),
            ("of bodies", *body),
            ("unparsed", unparsed),
        ];
        self.sum("http2, bytes read", *bytes, &parts);
        self.sum("http2, bytes missing", *gap, &[("in bodies", *gap_body), ("lost", *gap_lost)]);
    }

    fn stitch(&mut self, stitch: &stitch::Ledger, exchange: &exchange::Ledger) {
        let opened = [("opened before", exchange.opened)];
        self.sum("stitch, exchanges", stitch.exchanges, &opened);
        let connects = stitch.connects.balance(stitch.held.connects);
        if connects != 0 {
            self.0.push(format!("the books do not balance: stitch, connects: off by {connects}"));
        }
        let (out, decided) = stitch.balance();
        for (sum, missing) in [("spans, left out and held", out), ("links, roots and orphans", decided)] {
            if missing != 0 {
                let exchanges = stitch.exchanges;
                self.0.push(format!(
                    "the books do not balance: stitch, exchanges: {exchanges} are not the sum of {sum}: off by {missing}"
                ));
            }
        }
    }

    fn discover(&mut self, discover: &discover::Ledger) {
        let discover::Ledger {
            met,
            held,
            ended_by_age,
            ended_by_count,
            vanished,
            displaced,
            resolved,
            by_image,
            by_scan,
            by_proc,
            by_record,
            unnamed,
            proc_gone: _,
            proc_changed: _,
            proc_denied: _,
            scanned: _,
        } = *discover;
        let parts = [
            ("held", held),
            ("ended by age", ended_by_age),
            ("ended by count", ended_by_count),
            ("vanished", vanished),
            ("displaced", displaced),
        ];
        self.sum("discover, processes met", met, &parts);
        let parts = [
            ("by image", by_image),
            ("by scan", by_scan),
            ("by /proc", by_proc),
            ("by record", by_record),
            ("unnamed", unnamed),
        ];
        self.sum("discover, processes resolved", resolved, &parts);
    }

    fn terminal(&mut self, terminal: &terminal::Ledger, stitch: &stitch::Ledger) {
        let terminal::Ledger {
            ended,
            in_tree,
            late,
            over_bound,
            unwritten,
            held,
            trees: _,
            trees_by_age: _,
            open_over_bound: _,
            open_by_age: _,
            forgotten: _,
        } = *terminal;
        self.sum("terminal, spans", ended, &[("from stitch", stitch.spans)]);
        let parts = [
            ("in trees", in_tree),
            ("late", late),
            ("over a bound", over_bound),
            ("unwritten", unwritten),
            ("held", held),
        ];
        self.sum("terminal, spans", ended, &parts);
    }

    fn export(&mut self, export: &Exported, stitch: &stitch::Ledger) {
        let Exported { ledger, destinations } = *export;
        let export::Ledger {
            offered,
            exported,
            queue_full,
            rejected,
            refused,
            gave_up,
            shutdown,
            encoding,
            waiting,
            calls: _,
            failed_calls: _,
        } = ledger;
        let wanted = stitch.spans.saturating_mul(destinations);
        self.sum("export, spans offered", offered, &[("from stitch, once for each destination", wanted)]);
        let parts = [
            ("exported", exported),
            ("with a full queue", queue_full),
            ("rejected", rejected),
            ("refused", refused),
            ("given up", gave_up),
            ("at shutdown", shutdown),
            ("too large", encoding),
            ("waiting", waiting),
        ];
        self.sum("export, spans offered", offered, &parts);
    }
}
