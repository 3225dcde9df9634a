//! The books: every station's ledger as exported counters, and whether all of them together balance.
//! ```text
//!   ledgers of the stations ─▶ Books ─▶ counters        for metrics and for the log at the end
//!                                   └─▶ imbalances  a sentence for each sum that does not hold
//! ```
//! Each ledger is taken apart here without `..`, so a counter that nobody exports does not compile. What a
//! counter means stands in [`DOCUMENTED`], one line each; a test holds that table against what is exported,
//! and `docs/counters.md` against the table.
//!
//! Nothing here counts, reads a clock or knows how a station works. To add a counter: a field in its
//! station's ledger, a line here, a line in [`DOCUMENTED`], and its place in a sum of `balance`.

mod balance;
mod documented;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use spandrel_proto::call;
use spandrel_proto::counter::{CALL_NUMBERS, Counter as KernelCounter};

pub use balance::imbalances;
pub use documented::{DOCUMENTED, markdown};

use crate::discover::runtimes::readers;
use crate::discover::{searching, table as discover, tables};
use crate::export::metrics::{Counter, Report};
use crate::export::{self, terminal};
use crate::probe::sessions;
use crate::protocol::http1::{self, Malformed};
use crate::protocol::{fastcgi, http2};
use crate::stitch::ledger as stitch;
use crate::stream::GapCause;
use crate::{exchange, intake, pipeline, stream, tls};

/// The ledgers of all stations at one moment.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// What the kernel side counted; none where there is no kernel side (in tests).
    pub kernel: Option<Kernel>,
    /// Records.
    pub intake: intake::Ledger,
    /// What was left out between intake and the streams.
    pub pipeline: pipeline::Ledger,
    /// Bytes, per direction of a connection.
    pub stream: stream::Ledger,
    /// Bytes of TLS, and of what is none.
    pub tls: tls::Ledger,
    /// TLS sessions and their secrets.
    pub keys: tls::keys::Ledger,
    /// Plaintext that probes have read, in bytes.
    pub clear: tls::clear::Ledger,
    /// Bytes of all parsers.
    pub parsers: exchange::Parsers,
    /// Bytes, requests and responses of all connections, closed ones included.
    pub exchange: exchange::Ledger,
    /// Exchanges and spans.
    pub stitch: stitch::Ledger,
    /// Failures of connections that belong to no span, by destination and reason.
    pub failed_connects: Vec<(&'static str, u64)>,
    /// Processes.
    pub discover: discover::Ledger,
    /// Processes whose TLS sessions are looked into.
    pub sessions: sessions::Ledger,
    /// Searches for secrets of TLS sessions.
    pub secrets: searching::Ledger,
    /// Searches for HPACK tables.
    pub tables: tables::Ledger,
    /// Runtimes that are read from inside.
    pub runtimes: readers::Ledger,
    /// Spans on the terminal; none without one.
    pub terminal: Option<terminal::Ledger>,
    /// Spans on their way out; none without a destination, and none in what is given to
    /// [`export::Exporter::publish`], which adds its own.
    pub export: Option<Exported>,
}

/// What the kernel side counted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Kernel {
    /// The values, in the order of [`KernelCounter::ALL`].
    pub counters: Vec<u64>,
    /// Bytes of calls without a buffer that can be read, by call number; only those that occurred.
    pub unseen_calls: Vec<(u32, u64)>,
}

/// The exporter's books.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exported {
    /// Those of all destinations together.
    pub ledger: export::Ledger,
    /// How many destinations there are: each is offered every span.
    pub destinations: u64,
}

impl Kernel {
    /// The value of one counter; 0 if there is none.
    pub fn get(&self, counter: KernelCounter) -> u64 {
        self.counters.get(counter as usize).copied().unwrap_or_default()
    }
}

/// All counters of these books, those that are 0 too.
pub fn counters(books: &Books) -> Vec<Counter> {
    let mut counters = Vec::new();
    books.counters(&mut counters);
    counters
}

impl Report for Books {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            kernel,
            intake,
            pipeline,
            stream,
            tls,
            keys,
            clear,
            parsers,
            exchange,
            stitch,
            failed_connects,
            discover,
            sessions,
            secrets,
            tables,
            runtimes,
            terminal,
            export,
        } = self;
        if let Some(kernel) = kernel {
            kernel.counters(out);
        }
        intake.counters(out);
        pipeline.counters(out);
        stream.counters(out);
        tls.counters(out);
        keys.counters(out);
        clear.counters(out);
        let exchange::Parsers { http1, http2, fastcgi } = parsers;
        http1.counters(out);
        http2.counters(out);
        fastcgi.counters(out);
        exchange.counters(out);
        stitch.counters(out);
        push_by(out, "spandrel_stitch_unowned_connects_total", failed_connects.iter().copied());
        discover.counters(out);
        sessions.counters(out);
        secrets.counters(out);
        tables.counters(out);
        runtimes.counters(out);
        if let Some(terminal) = terminal {
            terminal.counters(out);
        }
        if let Some(Exported { ledger, destinations: _ }) = export {
            ledger.counters(out);
        }
    }
}

impl Report for Kernel {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { counters: _, unseen_calls } = self;
        for (counter, name, cause) in KernelCounter::ALL {
            out.push(Counter { name, cause, value: self.get(counter) });
        }
        for &(number, bytes) in unseen_calls {
            out.push(Counter::by("spandrel_kernel_unseen_call_bytes_total", call_name(number), bytes));
        }
    }
}

/// The name of a system call, or its number where the table of calls has no name for it.
fn call_name(number: u32) -> &'static str {
    static NUMBERS: LazyLock<Vec<String>> =
        LazyLock::new(|| (0..CALL_NUMBERS.saturating_sub(1)).map(|number| number.to_string()).collect());
    // The last slot takes all numbers beyond, and calls that have none.
    let numbered = || usize::try_from(number).ok().and_then(|number| NUMBERS.get(number));
    call::name(number).or_else(|| numbered().map(String::as_str)).unwrap_or("unknown")
}

impl Report for intake::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { records, early, early_bytes, undecodable, undecodable_bytes } = *self;
        out.push(Counter::new("spandrel_intake_records_total", records));
        out.push(Counter::new("spandrel_intake_early_records_total", early));
        out.push(Counter::new("spandrel_intake_early_bytes_total", early_bytes));
        out.push(Counter::new("spandrel_intake_undecodable_records_total", undecodable));
        out.push(Counter::new("spandrel_intake_undecodable_bytes_total", undecodable_bytes));
    }
}

impl Report for pipeline::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { not_selected_records, not_selected_bytes } = *self;
        out.push(Counter::new("spandrel_pipeline_not_selected_records_total", not_selected_records));
        out.push(Counter::new("spandrel_pipeline_not_selected_bytes_total", not_selected_bytes));
    }
}

impl Report for sessions::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { looked, planned, without, probed, failed, learned } = *self;
        let unread = looked.saturating_sub(planned).saturating_sub(without);
        let causes = [("planned", planned), ("without", without), ("unread", unread)];
        push_by(out, "spandrel_tls_looks_total", causes);
        out.push(Counter::new("spandrel_tls_held_probes", probed));
        out.push(Counter::new("spandrel_tls_failed_libraries_total", failed));
        out.push(Counter::new("spandrel_tls_learned_programs_total", learned));
    }
}

impl Report for searching::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { asked, unasked, searches, searched_bytes, guesses, keys, opened } = *self;
        let causes = [("asked", asked.saturating_sub(unasked)), ("no_room", unasked), ("opened", opened)];
        push_by(out, "spandrel_tls_searched_sessions_total", causes);
        out.push(Counter::new("spandrel_tls_searches_total", searches));
        out.push(Counter::new("spandrel_tls_searched_bytes_total", searched_bytes));
        out.push(Counter::new("spandrel_tls_guesses_total", guesses));
        out.push(Counter::new("spandrel_tls_searched_keys_total", keys));
    }
}

impl Report for tables::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { asked, unasked, searches, incomplete, searched_bytes, tables } = *self;
        let answered = asked.saturating_sub(unasked);
        push_by(out, "spandrel_discover_table_asks_total", [("asked", answered), ("no_room", unasked)]);
        let complete = searches.saturating_sub(incomplete);
        push_by(
            out,
            "spandrel_discover_table_searches_total",
            [("complete", complete), ("incomplete", incomplete)],
        );
        out.push(Counter::new("spandrel_discover_table_searched_bytes_total", searched_bytes));
        out.push(Counter::new("spandrel_discover_tables_total", tables));
    }
}

impl Report for readers::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { proved, refused, unasked, gone, early, walks_refused, probes } = *self;
        let crate::intake::UprobeLedger { attached, failed, over_budget, unwanted, ended } = probes;
        for (cause, count) in [
            ("attached", attached),
            ("failed", failed),
            ("off_over_budget", over_budget),
            ("off_unwanted", unwanted),
            ("off_process_ended", ended),
        ] {
            out.push(Counter::by("spandrel_runtime_probe_sets_total", cause, count));
        }
        out.push(Counter::by("spandrel_runtime_processes_total", "proved", proved));
        out.push(Counter::by("spandrel_runtime_processes_total", "refused", refused));
        out.push(Counter::by("spandrel_runtime_processes_total", "gone", gone));
        out.push(Counter::new("spandrel_runtime_early_looks_total", early));
        out.push(Counter::new("spandrel_runtime_unasked_looks_total", unasked));
        out.push(Counter::new("spandrel_runtime_refused_walks_total", walks_refused));
    }
}

impl Report for stream::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            captured,
            passed,
            discarded,
            held,
            gaps,
            unread,
            opened,
            closed,
            evicted,
            aged,
            left_out,
            joined,
        } = *self;
        out.push(Counter::new("spandrel_stream_captured_bytes_total", captured));
        out.push(Counter::new("spandrel_stream_passed_bytes_total", passed));
        out.push(Counter::new("spandrel_stream_discarded_bytes_total", discarded));
        out.push(Counter::new("spandrel_stream_held_bytes", held));
        for (cause, bytes) in GapCause::ALL.into_iter().zip(gaps) {
            out.push(Counter::by("spandrel_stream_gap_bytes_total", cause.name(), bytes));
        }
        out.push(Counter::new("spandrel_stream_unread_bytes_total", unread));
        out.push(Counter::new("spandrel_stream_opened_ends_total", opened));
        out.push(Counter::new("spandrel_stream_closed_ends_total", closed));
        push_by(
            out,
            "spandrel_stream_abandoned_ends_total",
            [("evicted", evicted), ("aged", aged), ("not_selected", left_out)],
        );
        out.push(Counter::new("spandrel_stream_joined_connections_total", joined));
    }
}

impl Report for tls::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            moved,
            passed,
            opened,
            handshake,
            sealed,
            held,
            plaintext,
            missing,
            on_trust,
            sessions,
            sessions_opened,
            resynchronised,
            key_updates,
            waiting_cut,
            mistaken,
        } = *self;
        out.push(Counter::new("spandrel_tls_moved_bytes_total", moved));
        out.push(Counter::new("spandrel_tls_passed_bytes_total", passed));
        out.push(Counter::new("spandrel_tls_opened_bytes_total", opened));
        out.push(Counter::new("spandrel_tls_handshake_bytes_total", handshake));
        for (why, bytes) in tls::Sealed::ALL.into_iter().zip(sealed) {
            out.push(Counter::by("spandrel_tls_sealed_bytes_total", why.name(), bytes));
        }
        out.push(Counter::new("spandrel_tls_held_bytes", held));
        out.push(Counter::new("spandrel_tls_plaintext_bytes_total", plaintext));
        out.push(Counter::new("spandrel_tls_missing_bytes_total", missing));
        out.push(Counter::new("spandrel_tls_on_trust_bytes_total", on_trust));
        out.push(Counter::new("spandrel_tls_sessions_total", sessions));
        out.push(Counter::new("spandrel_tls_opened_sessions_total", sessions_opened));
        out.push(Counter::new("spandrel_tls_resynchronised_total", resynchronised));
        out.push(Counter::new("spandrel_tls_key_updates_total", key_updates));
        out.push(Counter::new("spandrel_tls_cut_records_total", waiting_cut));
        out.push(Counter::new("spandrel_tls_mistaken_sessions_total", mistaken));
    }
}

impl Report for tls::keys::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { hellos, found, unasked, keyless, forgotten, replayed } = *self;
        out.push(Counter::new("spandrel_tls_hellos_total", hellos));
        out.push(Counter::new("spandrel_tls_found_secrets_total", found));
        push_by(
            out,
            "spandrel_tls_unused_sessions_total",
            [("unasked", unasked), ("keyless", keyless), ("forgotten", forgotten), ("replayed", replayed)],
        );
    }
}

impl Report for tls::clear::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { moved, passed, unknown, ambiguous, misplaced, held, lost, counted, uncounted } = *self;
        out.push(Counter::new("spandrel_tls_clear_moved_bytes_total", moved));
        out.push(Counter::new("spandrel_tls_clear_passed_bytes_total", passed));
        push_by(
            out,
            "spandrel_tls_clear_dropped_bytes_total",
            [("unknown", unknown), ("ambiguous", ambiguous), ("misplaced", misplaced)],
        );
        out.push(Counter::new("spandrel_tls_clear_held_bytes", held));
        out.push(Counter::new("spandrel_tls_clear_lost_bytes_total", lost));
        push_by(out, "spandrel_tls_clear_sessions_total", [("counted", counted), ("uncounted", uncounted)]);
    }
}

impl Report for http1::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
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
            fields_cut,
            fields_dropped,
        } = self;
        out.push(Counter::new("spandrel_protocol_read_bytes_total", *bytes));
        let parsed = [("head", head), ("body", body), ("framing", framing), ("switched", switched)];
        push_by(out, "spandrel_protocol_parsed_bytes_total", parsed.map(|(cause, value)| (cause, *value)));
        for (cause, bytes) in Malformed::ALL.into_iter().zip(unparsed) {
            out.push(Counter::by("spandrel_protocol_unparsed_bytes_total", cause.name(), *bytes));
        }
        out.push(Counter::new("spandrel_protocol_held_bytes", *held));
        out.push(Counter::new("spandrel_protocol_missing_bytes_total", *gap));
        push_by(out, "spandrel_protocol_gap_bytes_total", [("body", *gap_body), ("lost", *gap_lost)]);
        out.push(Counter::new("spandrel_protocol_cut_fields_total", *fields_cut));
        out.push(Counter::new("spandrel_protocol_dropped_fields_total", *fields_dropped));
    }
}

impl Report for fastcgi::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            bytes,
            framing,
            head,
            body,
            unparsed,
            gap,
            gap_body,
            gap_lost,
            lost,
            params_cut,
            fields_cut,
        } = *self;
        out.push(Counter::new("spandrel_protocol_fastcgi_read_bytes_total", bytes));
        let parsed = [("framing", framing), ("head", head), ("body", body), ("unparsed", unparsed)];
        push_by(out, "spandrel_protocol_fastcgi_parsed_bytes_total", parsed);
        out.push(Counter::new("spandrel_protocol_fastcgi_missing_bytes_total", gap));
        push_by(out, "spandrel_protocol_fastcgi_gap_bytes_total", [("body", gap_body), ("lost", gap_lost)]);
        out.push(Counter::new("spandrel_protocol_fastcgi_lost_total", lost));
        out.push(Counter::new("spandrel_protocol_fastcgi_cut_parameter_bytes_total", params_cut));
        out.push(Counter::new("spandrel_protocol_fastcgi_cut_fields_total", fields_cut));
    }
}

impl Report for http2::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            bytes,
            framing,
            head,
            body,
            unparsed,
            gap,
            gap_body,
            gap_lost,
            frames,
            blocks,
            blocks_unread,
            fields_unknown,
            fields_cut,
            fields_dropped,
            aligned,
            lost,
        } = self;
        out.push(Counter::new("spandrel_protocol_http2_read_bytes_total", *bytes));
        let parsed = [("head", head), ("body", body), ("framing", framing)];
        push_by(
            out,
            "spandrel_protocol_http2_parsed_bytes_total",
            parsed.map(|(cause, value)| (cause, *value)),
        );
        for (cause, bytes) in http2::Malformed::ALL.into_iter().zip(unparsed) {
            out.push(Counter::by("spandrel_protocol_http2_unparsed_bytes_total", cause.name(), *bytes));
        }
        out.push(Counter::new("spandrel_protocol_http2_missing_bytes_total", *gap));
        push_by(out, "spandrel_protocol_http2_gap_bytes_total", [("body", *gap_body), ("lost", *gap_lost)]);
        out.push(Counter::new("spandrel_protocol_http2_frames_total", *frames));
        out.push(Counter::new("spandrel_protocol_http2_header_blocks_total", *blocks));
        out.push(Counter::new("spandrel_protocol_http2_unread_header_blocks_total", *blocks_unread));
        out.push(Counter::new("spandrel_protocol_http2_unknown_fields_total", *fields_unknown));
        out.push(Counter::new("spandrel_protocol_http2_cut_fields_total", *fields_cut));
        out.push(Counter::new("spandrel_protocol_http2_dropped_fields_total", *fields_dropped));
        out.push(Counter::new("spandrel_protocol_http2_aligned_total", *aligned));
        out.push(Counter::new("spandrel_protocol_http2_lost_total", *lost));
    }
}

impl Report for exchange::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
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
            tables_restored,
            tables_ambiguous,
            tables_unfound,
            exchanges_recalled,
            ends_clamped,
        } = *self;
        out.push(Counter::new("spandrel_exchange_moved_bytes_total", bytes));
        out.push(Counter::new("spandrel_exchange_parsed_bytes_total", bytes_parsed));
        push_by(
            out,
            "spandrel_exchange_left_out_bytes_total",
            [("unrecognised", bytes_unrecognised), ("other_protocol", bytes_other), ("late", bytes_late)],
        );
        out.push(Counter::new("spandrel_exchange_held_bytes", bytes_held));
        out.push(Counter::new("spandrel_exchange_requests_total", requests));
        out.push(Counter::new("spandrel_exchange_refused_requests_total", requests_refused));
        out.push(Counter::new("spandrel_exchange_unproven_requests_total", requests_unproven));
        out.push(Counter::new("spandrel_exchange_opened_exchanges_total", opened));
        push_by(
            out,
            "spandrel_exchange_closed_exchanges_total",
            [
                ("complete", complete),
                ("incomplete", incomplete),
                ("connection_reset", connection_reset),
                ("timeout", timed_out),
                ("connection_closed", connection_closed),
                ("cancelled", cancelled),
                ("process_exited", process_exited),
                ("socket_error", socket_error),
                ("stream_reset", stream_reset),
                ("refused", refused),
            ],
        );
        out.push(Counter::new("spandrel_exchange_open_exchanges", open));
        out.push(Counter::new("spandrel_exchange_responses_total", responses));
        out.push(Counter::new("spandrel_exchange_paired_responses_total", responses_paired));
        out.push(Counter::new("spandrel_exchange_unpaired_responses_total", responses_without_request));
        push_by(
            out,
            "spandrel_exchange_tables_total",
            [("restored", tables_restored), ("ambiguous", tables_ambiguous), ("unfound", tables_unfound)],
        );
        out.push(Counter::new("spandrel_exchange_recalled_exchanges_total", exchanges_recalled));
        out.push(Counter::new("spandrel_exchange_clamped_ends_total", ends_clamped));
    }
}

impl Report for stitch::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            exchanges,
            spans,
            suppressed,
            not_sampled,
            dropped,
            held,
            links,
            roots,
            orphans,
            clamps,
            thread_rule_lost,
            stray,
            forgotten,
            connects,
            values_cut,
        } = self;
        out.push(Counter::new("spandrel_stitch_exchanges_total", *exchanges));
        out.push(Counter::new("spandrel_stitch_spans_total", *spans));
        out.push(Counter::new("spandrel_stitch_suppressed_exchanges_total", *suppressed));
        out.push(Counter::new("spandrel_stitch_not_sampled_exchanges_total", *not_sampled));
        dropped.counters(out);
        held.counters(out);
        links.counters(out);
        roots.counters(out);
        orphans.counters(out);
        clamps.counters(out);
        thread_rule_lost.counters(out);
        stray.counters(out);
        forgotten.counters(out);
        connects.counters(out);
        out.push(Counter::new("spandrel_stitch_cut_values_total", *values_cut));
    }
}

/// A ledger whose fields are the causes of one counter, by their own names.
macro_rules! by_cause {
    ($ledger:ty, $name:literal, $($cause:ident),+) => {
        impl Report for $ledger {
            fn counters(&self, out: &mut Vec<Counter>) {
                let Self { $($cause),+ } = *self;
                push_by(out, $name, [$((stringify!($cause), $cause)),+]);
            }
        }
    };
}

by_cause!(
    stitch::Dropped,
    "spandrel_stitch_dropped_exchanges_total",
    duplicate,
    open_limit,
    byte_limit,
    never_closed,
    shutdown
);
by_cause!(
    stitch::Links,
    "spandrel_stitch_links_total",
    stream,
    forwarded,
    header,
    waiter,
    task,
    thread,
    inferred
);
by_cause!(stitch::Roots, "spandrel_stitch_roots_total", server, client, suppressed);
by_cause!(
    stitch::Orphans,
    "spandrel_stitch_orphans_total",
    many_per_thread,
    not_blocking,
    rule_lost,
    other_thread_holds,
    two_requests,
    two_calls,
    other_thread_answered,
    never_answered,
    records_lost,
    context_ambiguous,
    context_not_live,
    no_owner,
    key_shared,
    works_on,
    weakest_link,
    client_unseen,
    expired,
    limit,
    shutdown,
    cycle
);
by_cause!(
    stitch::Clamps,
    "spandrel_stitch_clamped_times_total",
    client_start,
    server_start,
    server_end,
    client_end
);
by_cause!(
    stitch::ThreadRuleLost,
    "spandrel_stitch_thread_rule_lost_processes_total",
    two_requests,
    two_calls,
    request_given_up
);
by_cause!(stitch::Stray, "spandrel_stitch_stray_inputs_total", events, joins);
by_cause!(
    stitch::Forgotten,
    "spandrel_stitch_forgotten_entries_total",
    clients,
    connections,
    contexts,
    owners,
    lives,
    births
);

impl Report for stitch::Connects {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { asked, established, told, crowded, late, alone, forgotten } = *self;
        out.push(Counter::new("spandrel_stitch_asked_connects_total", asked));
        out.push(Counter::new("spandrel_stitch_established_connects_total", established));
        let failed = [("told", told), ("crowded", crowded), ("late", late), ("alone", alone)];
        push_by(out, "spandrel_stitch_failed_connects_total", failed);
        out.push(Counter::new("spandrel_stitch_forgotten_connects_total", forgotten));
    }
}

impl Report for stitch::Held {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self { open, pending, undecided, connects } = *self;
        push_by(out, "spandrel_stitch_held_exchanges", [("open", open), ("pending", pending)]);
        out.push(Counter::new("spandrel_stitch_undecided_exchanges", undecided));
        out.push(Counter::new("spandrel_stitch_held_connects", connects));
    }
}

impl Report for discover::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
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
            proc_gone,
            proc_changed,
            proc_denied,
            scanned,
        } = *self;
        out.push(Counter::new("spandrel_discover_met_processes_total", met));
        out.push(Counter::new("spandrel_discover_held_processes", held));
        push_by(
            out,
            "spandrel_discover_forgotten_processes_total",
            [
                ("age", ended_by_age),
                ("count", ended_by_count),
                ("vanished", vanished),
                ("displaced", displaced),
            ],
        );
        out.push(Counter::new("spandrel_discover_resolved_processes_total", resolved));
        push_by(
            out,
            "spandrel_discover_described_processes_total",
            [
                ("image", by_image),
                ("scan", by_scan),
                ("proc", by_proc),
                ("record", by_record),
                ("nothing", unnamed),
            ],
        );
        push_by(
            out,
            "spandrel_discover_failed_looks_total",
            [("gone", proc_gone), ("changed", proc_changed), ("denied", proc_denied)],
        );
        out.push(Counter::new("spandrel_discover_scanned_processes_total", scanned));
    }
}

impl Report for terminal::Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            ended,
            in_tree,
            late,
            over_bound,
            unwritten,
            held,
            trees,
            trees_by_age,
            open_over_bound,
            open_by_age,
            forgotten,
        } = *self;
        out.push(Counter::new("spandrel_terminal_ended_spans_total", ended));
        push_by(
            out,
            "spandrel_terminal_printed_spans_total",
            [("tree", in_tree), ("late", late), ("over_bound", over_bound)],
        );
        out.push(Counter::new("spandrel_terminal_unwritten_spans_total", unwritten));
        out.push(Counter::new("spandrel_terminal_held_spans", held));
        out.push(Counter::new("spandrel_terminal_trees_total", trees));
        out.push(Counter::new("spandrel_terminal_early_trees_total", trees_by_age));
        push_by(
            out,
            "spandrel_terminal_unawaited_exchanges_total",
            [("over_bound", open_over_bound), ("age", open_by_age)],
        );
        out.push(Counter::new("spandrel_terminal_forgotten_traces_total", forgotten));
    }
}

fn push_by(
    out: &mut Vec<Counter>,
    name: &'static str,
    causes: impl IntoIterator<Item = (&'static str, u64)>,
) {
    out.extend(causes.into_iter().map(|(cause, value)| Counter::by(name, cause, value)));
}
