//! What rounding activations to eight bits costs: `candle` against
//! `candle-f32`, which keeps them in f32, with the same weights.
//!
//! ```sh
//! cargo bench --bench quality                              # the bundled model, on what the tests have of held-out text
//! cargo bench --bench quality -- --held-out FILE           # on more of it: models/demo/training/held_out.py
//! cargo bench --bench quality -- --model FOLDER            # another model, on random tokens
//! ```
//!
//! Of the bundled model: the perplexity of the replies in held-out
//! conversations, how many it gives right by itself, and how far the next-token
//! distributions are from each other. Of another: the last alone, which needs
//! no text that the model knows.

#![allow(missing_docs)]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod answers;
mod divergence;
mod held_out;

use std::path::{Path, PathBuf};

use clap::Parser;
use llm_server::backend::BackendChoice;
use llm_server::demo;
use llm_server::model::{self, ModelFiles, Tokenizer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use answers::Score;
use divergence::{Pair, Position};

#[derive(Parser)]
struct Options {
    /// Held-out conversations, as models/demo/training/held_out.py writes them.
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,

    /// The folder of another model than the bundled one.
    #[arg(long, value_name = "FOLDER", conflicts_with = "held_out")]
    model: Option<PathBuf>,

    /// Sequences of random tokens that it is given.
    #[arg(long, default_value_t = 32, requires = "model")]
    sequences: usize,

    /// Tokens of each of them.
    #[arg(long, default_value_t = 128, requires = "model")]
    tokens: usize,

    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    match options.model {
        Some(folder) => random(folder, options.sequences, options.tokens),
        None => bundled(options.held_out),
    }
}

fn load(files: &ModelFiles) -> Pair {
    let load = |backend| model::load(files, backend, &()).unwrap();
    let pair = Pair {
        reference: load(BackendChoice::CandleF32),
        other: load(BackendChoice::Candle),
    };
    let info = pair.other.info();
    let millions = info.parameters as f64 / 1e6;
    println!(
        "{}, {millions:.1} M parameters; {}",
        info.family, info.backend
    );
    pair
}

fn bundled(held_out: Option<PathBuf>) {
    let files = demo::files();
    let tokenizer = Tokenizer::load(&files).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/held-out.jsonl");
    let conversations = held_out::read(&held_out.unwrap_or(fixture), &tokenizer);
    let mut pair = load(&files);

    let tokens: Vec<_> = conversations.iter().map(|c| c.tokens.clone()).collect();
    let positions = pair.compare(&tokens);
    let in_replies = positions.iter().filter(|position| {
        let replies = &conversations[position.sequence].replies;
        replies.get(position.known) == Some(&true)
    });
    let in_replies: Vec<&Position> = in_replies.collect();
    let perplexity = |which: usize| {
        let surprises = in_replies.iter().filter_map(|position| position.surprise);
        let sum: f64 = surprises.map(|surprise| surprise[which]).sum();
        (sum / in_replies.len() as f64).exp()
    };
    row("", "f32", "8 bits");
    row(
        &format!("perplexity of {} tokens of replies", in_replies.len()),
        &format!("{:.5}", perplexity(0)),
        &format!("{:.5}", perplexity(1)),
    );
    let models = [&mut pair.reference, &mut pair.other];
    let scores = models.map(|model| answers::score(model.as_mut(), &tokenizer, &conversations));
    let told = |what: &str, all: usize, right: fn(&Score) -> usize| {
        let [f32, rounded] = scores.each_ref().map(|score| right(score).to_string());
        row(&format!("{what}, of {all}"), &f32, &rounded);
    };
    let [
        Score {
            replies,
            conversations,
            ..
        },
        _,
    ] = scores;
    told("right replies", replies, |score| score.right_replies);
    told("conversations all right", conversations, |score| {
        score.right_conversations
    });
    distances("of replies", in_replies);
    distances("of all text", positions.iter().collect());
}

fn random(folder: PathBuf, sequences: usize, tokens: usize) {
    let mut pair = load(&ModelFiles::Folder(folder));
    let vocabulary = pair.reference.info().vocabulary_size as u32;
    let mut random = SmallRng::seed_from_u64(1);
    let mut sequence = || {
        (0..tokens)
            .map(|_| random.random_range(0..vocabulary))
            .collect()
    };
    let sequences: Vec<Vec<u32>> = (0..sequences).map(|_| sequence()).collect();
    let positions = pair.compare(&sequences);
    distances("of random tokens", positions.iter().collect());
}

/// Says how far apart the distributions are.
fn distances(what: &str, positions: Vec<&Position>) {
    let count = positions.len();
    let mut sorted: Vec<f64> = positions
        .iter()
        .map(|position| position.divergence)
        .collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let mean = sorted.iter().sum::<f64>() / count as f64;
    let percentile = sorted.get(count * 99 / 100).copied().unwrap_or_default();
    let differ = positions.iter().filter(|position| position.differs).count();
    println!(
        "{count} positions {what}: KL(f32 || 8 bits) {mean:.2e} nats at the mean, {percentile:.2e} at the 99th \
         percentile; the likeliest token is another in {differ} ({:.2} %)",
        100.0 * differ as f64 / count as f64
    );
}

fn row(what: &str, f32: &str, rounded: &str) {
    println!("{what:<44}{f32:>12}{rounded:>12}");
}
