//! The tree must not depend on which end of a connection is reported first.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::Settings;
use super::{Line, check, dedent, parse, run};

/// Lines by actor, each in order.
fn actors(lines: Vec<Line>) -> Vec<Vec<Line>> {
    let mut actors: Vec<Vec<Line>> = Vec::new();
    for line in lines {
        match actors.iter_mut().find(|actor| actor[0].actor == line.actor) {
            Some(actor) => actor.push(line),
            None => actors.push(vec![line]),
        }
    }
    actors
}

/// All interleavings in which each actor's lines stay in order; a random few if there are too many.
fn interleavings(actors: &[Vec<Line>], most: usize) -> Vec<Vec<Line>> {
    let total: usize = actors.iter().map(Vec::len).sum();
    let mut count: f64 = (1..=total).map(|n| n as f64).product();
    for actor in actors {
        count /= (1..=actor.len()).map(|n| n as f64).product::<f64>();
    }
    let mut all = Vec::new();
    if count <= most as f64 {
        let mut work = vec![(Vec::new(), vec![0; actors.len()])];
        while let Some((done, next)) = work.pop() {
            if done.len() == total {
                all.push(done);
                continue;
            }
            for (index, actor) in actors.iter().enumerate() {
                if let Some(line) = actor.get(next[index]) {
                    let (mut done, mut next): (Vec<Line>, Vec<usize>) = (done.clone(), next.clone());
                    done.push(line.clone());
                    next[index] += 1;
                    work.push((done, next));
                }
            }
        }
        return all;
    }
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..most {
        let mut left: Vec<usize> =
            actors.iter().enumerate().flat_map(|(i, actor)| vec![i; actor.len()]).collect();
        let mut next = vec![0; actors.len()];
        let mut order = Vec::new();
        while !left.is_empty() {
            let actor = left.swap_remove(random.random_range(0..left.len()));
            order.push(actors[actor][next[actor]].clone());
            next[actor] += 1;
        }
        all.push(order);
    }
    all
}

#[track_caller]
fn check_all_orders(script: &str, want: &str) {
    check(script, want);
    let orders = interleavings(&actors(parse(script)), 3_000);
    assert!(orders.len() > 5);
    for order in orders {
        let told = run(Settings::default(), &order);
        let said: Vec<_> = order.iter().map(|line| format!("{}: {:?}", line.actor, line.inputs)).collect();
        assert_eq!(told.tree, dedent(want), "in this order:\n{}", said.join("\n"));
    }
}

#[test]
fn one_call_gives_one_tree_in_any_order() {
    check_all_orders(
        "join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream",
    );
}

#[test]
fn requests_over_one_connection_give_their_trees_in_any_order() {
    check_all_orders(
        "join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1
         curl.1 calls c1 /b
         web.1 reads s1 /b
         web.1 answers s1
         curl.1 gets c1
         close s1
         close c1",
        "
         client curl /a
           server web /a stream
         client curl /b
           server web /b stream",
    );
}

#[test]
fn a_chain_gives_one_tree_in_any_order() {
    check_all_orders(
        "join c1 s1
         join c2 s2
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 calls c2 /b
         db.1 reads s2 /b
         db.1 answers s2
         web.1 gets c2
         web.1 answers s1
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream
             client web /b thread
               server db /b stream",
    );
}

#[test]
fn a_passed_on_context_gives_one_tree_in_any_order() {
    check_all_orders(
        "join c1 s1
         join c2 s2
         app.1 calls c1 /a ctx=7:5
         nginx.1 reads s1 /a ctx=7:5 many
         nginx.1 calls c2 /b ctx=7:5 many
         web.1 reads s2 /b ctx=7:5
         web.1 answers s2
         nginx.1 gets c2
         nginx.1 answers s1
         app.1 gets c1",
        "
         client app /a header 7:5
           server nginx /a stream
             client nginx /b forwarded
               server web /b stream",
    );
}

#[test]
fn a_call_that_failed_gives_one_tree_in_any_order() {
    check_all_orders(
        "join c1 s1
         curl.1 calls c1 /a
         curl.1 fails c1
         close c1
         web.1 reads s1 /a
         web.1 answers s1
         close s1",
        "
         client curl /a
           server web /a stream",
    );
}

#[test]
fn a_context_whose_sender_is_not_here_gives_one_tree_in_any_order() {
    check_all_orders(
        "join c2 s2
         web.1 reads s1 /a ctx=7:5
         web.1 calls c2 /b
         db.1 reads s2 /b
         db.1 answers s2
         web.1 gets c2
         web.1 answers s1",
        "
         server web /a header 7:5
           client web /b thread
             server db /b stream",
    );
}
