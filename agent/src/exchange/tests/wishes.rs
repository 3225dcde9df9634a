//! What is asked of the kernel side, and when.

use super::*;

#[test]
fn small_messages_ask_for_nothing() {
    check_wishes(
        true,
        &[
            "< POST /a HTTP/1.1|Content-Length: 2||",
            "< hi",
            "> HTTP/1.1 200 OK|Content-Length: 9||{9}",
            "close peer",
        ],
        &[],
    );
}

#[test]
fn a_long_body_is_asked_to_be_silent_up_to_its_end_once() {
    check_wishes(
        true,
        &[
            "> GET /a HTTP/1.1||",
            "< HTTP/1.1 200 OK|Content-Length: 100000||{100}",
            "< {1000}",
            "<~ silent 98900",
            "> GET /b HTTP/1.1||",
            "< HTTP/1.1 204 N||",
        ],
        &["1: Receive From { offset: 100043 }"],
    );
}

#[test]
fn a_chunked_body_is_asked_for_whole_while_it_lasts() {
    check_wishes(
        true,
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 200 OK|Transfer-Encoding: chunked||",
            "> 5|abcde|",
            "> 0||",
            "< GET /b HTTP/1.1||",
            "> HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|hi|0||",
        ],
        &["1: Send Everything", "3: Send Heads"],
    );
}

#[test]
fn a_long_chunk_is_asked_to_be_silent_up_to_its_end() {
    check_wishes(
        true,
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 200 OK|Transfer-Encoding: chunked||f4240|{20}",
            ">~ silent 999980",
        ],
        &["1: Send From { offset: 1000054 }", "2: Send Everything"],
    );
}

#[test]
fn of_a_body_that_lasts_as_long_as_the_connection_every_call_shows_itself() {
    check_wishes(
        true,
        &["< GET /a HTTP/1.0||", "> HTTP/1.0 200 OK||{10}", "> {10}"],
        &["1: Send FirstBlock"],
    );
}

#[test]
fn a_direction_whose_chunk_framing_a_limit_cut_is_asked_for_whole_from_then_on() {
    check_wishes(
        true,
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 200 OK|Transfer-Encoding: chunked||1000|{10}",
            ">~ limit 4100",
            "< GET /b HTTP/1.1||",
            "> HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|hi|0||",
        ],
        &["1: Send Everything"],
    );
}

#[test]
fn nothing_is_asked_for_after_a_switch() {
    check_wishes(
        true,
        &["< GET /ws HTTP/1.1|Upgrade: websocket||", "> HTTP/1.1 101 Switching||", "< frame"],
        &["1: Receive Nothing", "1: Send Nothing"],
    );
}

#[test]
fn what_does_not_look_like_http_is_asked_for_in_first_blocks_and_then_not_at_all() {
    let script: Vec<&str> = ["< \u{1}binary", "> \u{2}binary"].into_iter().cycle().take(18).collect();
    check_wishes(
        false,
        &script,
        &["0: Receive FirstBlock", "1: Send FirstBlock", "15: Receive Nothing", "15: Send Nothing"],
    );
}

#[test]
fn heads_are_asked_for_again_when_a_message_came_after_all() {
    check_wishes(
        false,
        &["< \u{1}{50}", "> GET /a HTTP/1.1||"],
        &["0: Receive FirstBlock", "1: Receive Heads"],
    );
}
