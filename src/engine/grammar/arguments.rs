//! The arguments of one tool, and the end of the call: llguidance's grammar of
//! them at work.
//!
//! The one file that calls llguidance's parser. It is a large machine that
//! asserts what it believes, so each call is guarded: a panic in it becomes an
//! error that costs one call its grammar.
//!
//! Knows nothing of names and of what precedes the arguments.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::{BiasComputer, Parser, ParserRecognizer};
use llguidance::toktrie::{Recognizer, SimpleVob, TokTrie};
use llguidance::{ParserFactory, panic_utils};
use serde_json::Value;

use super::dead_end::dead_end;
use super::extent::Extent;
use super::outline::{Ending, Outline};
use super::source::{Source, source};
use super::vocabulary::{Vocabulary, first_line};

/// The grammar of one tool's arguments and what closes the call.
pub(super) struct ArgumentsGrammar {
    /// To build the parser anew after a failure.
    source: TopLevelGrammar,
    /// The parser before the first byte. Its clones share the lexer's states,
    /// which are made as they are needed, so a text once seen is fast for all;
    /// and so is a lexer's failure, after which it is built anew.
    fresh: Mutex<Parser>,
    /// How to tell the parts of a call.
    outline: Arc<Outline>,
}

/// A call from its arguments on.
pub(super) struct Arguments {
    parser: Parser,
    outline: Arc<Outline>,
    extent: Extent,
}

/// What some bytes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// They do not fit.
    Refused,
    /// They fit, and the call goes on.
    Fits,
    /// So many of them fit and end the call.
    Ends(usize, Ending),
}

impl ArgumentsGrammar {
    /// Compiles `schema`, which is an object's. If `lenient`, what the grammar
    /// cannot say is left out, and comes back as warnings.
    ///
    /// # Errors
    /// Why it cannot be compiled, in a line.
    pub(super) fn compile(
        vocabulary: &Vocabulary,
        schema: Value,
        lenient: bool,
    ) -> Result<(Self, Vec<String>), String> {
        let Source {
            grammar: source,
            plain,
            lost,
        } = source(vocabulary, schema, lenient)?;
        let (parser, warnings) = checked(vocabulary, &source)?;
        let grammar = Self {
            source,
            fresh: Mutex::new(parser),
            outline: Arc::new(Outline::new(vocabulary.format(), plain)),
        };
        Ok((grammar, lost.into_iter().chain(warnings).collect()))
    }

    /// A call at the start of its arguments.
    pub(super) fn start(&self) -> Arguments {
        // A panic elsewhere cannot have left the parser half written: it is
        // only ever replaced as a whole.
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        Arguments {
            parser: fresh.clone(),
            extent: Extent::new(&self.outline),
            outline: self.outline.clone(),
        }
    }

    /// Builds the parser anew if a call has broken the lexer that all calls to
    /// the tool share.
    pub(super) fn mend(&self, vocabulary: &Vocabulary) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = guard(|| fresh.get_error().is_some()).unwrap_or(true);
        if broken && let Ok(parser) = parser(vocabulary.factory(), &self.source) {
            *fresh = parser;
        }
    }
}

impl Arguments {
    /// Whether the bytes may come next. Changes nothing that shows.
    ///
    /// # Errors
    /// If llguidance fails; the call has no grammar any more.
    pub(super) fn fit(&mut self, bytes: &[u8]) -> Result<Fit, String> {
        let mut extent = self.extent;
        let outline = &*self.outline;
        let fit = guard(|| {
            self.parser.with_recognizer(|recognizer| {
                recognizer.trie_started("fit");
                let mut fit = Fit::Fits;
                for (at, byte) in bytes.iter().enumerate() {
                    let overlong = extent.overlong(*byte)
                        && (outline.behind_numbers().iter())
                            .any(|end| recognizer.byte_allowed(*end));
                    let refused = overlong || extent.cuts(outline, *byte);
                    if refused || !recognizer.try_push_byte(*byte) {
                        fit = Fit::Refused;
                        break;
                    }
                    if let Some(ending) = extent.feed(outline, *byte) {
                        fit = Fit::Ends(at + 1, ending);
                        break;
                    }
                }
                recognizer.trie_finished();
                fit
            })
        })?;
        // A lexer that has given up refuses everything.
        if fit == Fit::Refused {
            self.failure()?;
        }
        Ok(fit)
    }

    /// How many of the bytes, which fit, belong to the call, if they end it.
    pub(super) fn end(&self, bytes: &[u8]) -> Option<(usize, Ending)> {
        let mut extent = self.extent;
        bytes.iter().zip(1..).find_map(|(byte, length)| {
            let ending = extent.feed(&self.outline, *byte)?;
            Some((length, ending))
        })
    }

    /// Takes bytes that fit and do not end the call. `token` is the token
    /// they are of.
    ///
    /// # Errors
    /// If llguidance fails; the call has no grammar any more.
    pub(super) fn take(
        &mut self,
        vocabulary: &Vocabulary,
        token: u32,
        bytes: &[u8],
    ) -> Result<(), String> {
        guard(|| {
            let taken = self.parser.apply_token(bytes, token);
            self.parser
                .compute_bias(&Refuel(&*vocabulary.factory().slicer()), b"refuel");
            taken.map(|_| ()).map_err(|error| error.to_string())
        })?
        .map_err(|error| first_line(&error))?;
        for byte in bytes {
            self.extent.feed(&self.outline, *byte);
        }
        Ok(())
    }

    /// The tokens that fit. Those that end the call and go on behind it are
    /// not among them.
    ///
    /// # Errors
    /// If llguidance fails or nothing fits; the call has no grammar any more.
    pub(super) fn mask(&mut self, vocabulary: &Vocabulary) -> Result<SimpleVob, String> {
        let slicer = vocabulary.factory().slicer();
        let mut mask = guard(|| self.parser.compute_bias(&*slicer, &[]))?;
        self.failure()?;
        for token in vocabulary.doubtful() {
            let bytes = vocabulary.bytes(*token);
            if mask.is_allowed(*token)
                && self.may_be_refused(bytes)
                && self.fit(bytes)? == Fit::Refused
            {
                mask.disallow_token(*token);
            }
        }
        if mask.is_zero() {
            return Err("no token fits".to_owned());
        }
        Ok(mask)
    }

    /// Whether bytes that llguidance allows may still be refused.
    fn may_be_refused(&self, bytes: &[u8]) -> bool {
        let mut extent = self.extent;
        bytes.iter().any(|byte| {
            let doubtful = extent.overlong(*byte) || extent.cuts(&self.outline, *byte);
            extent.feed(&self.outline, *byte);
            doubtful
        })
    }

    fn failure(&self) -> Result<(), String> {
        match guard(|| self.parser.get_error())? {
            Some(error) => Err(first_line(&error.message())),
            None => Ok(()),
        }
    }
}

/// Gives the lexer the fuel of another step: llguidance does so when it makes
/// a mask, which we do not for a token that was sampled well. Makes none.
struct Refuel<'a>(&'a dyn BiasComputer);

impl BiasComputer for Refuel<'_> {
    fn compute_bias(&self, _: &mut ParserRecognizer<'_>, _: &[u8]) -> SimpleVob {
        SimpleVob::new()
    }

    fn trie(&self) -> &TokTrie {
        self.0.trie()
    }
}

/// Runs llguidance; a panic is an error.
fn guard<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(run())))
        .map_err(|error| first_line(&error.to_string()))
}

/// Whether a grammar can be begun and come to its end.
pub(super) fn compiles(vocabulary: &Vocabulary, source: &TopLevelGrammar) -> bool {
    checked(vocabulary, source).is_ok()
}

/// A parser, and what of the grammar it does not know.
fn checked(
    vocabulary: &Vocabulary,
    source: &TopLevelGrammar,
) -> Result<(Parser, Vec<String>), String> {
    let mut parser = parser(vocabulary.factory(), source)?;
    let warnings = guard(|| {
        let dead = dead_end(parser.grammar(), vocabulary.factory().limits())?;
        match dead {
            Some(symbol) => Err(format!("nothing satisfies a part of it ({symbol})")),
            None => Ok(parser.grammar_warnings()),
        }
    })??;
    Ok((parser, warnings))
}

fn parser(factory: &ParserFactory, source: &TopLevelGrammar) -> Result<Parser, String> {
    let parser = factory.create_parser(source.clone());
    let parser = parser.map_err(|error| first_line(&error.to_string()))?;
    Ok(parser.parser)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::grammar::CallFormat;

    #[test]
    fn a_broken_lexer_fails_its_calls_and_is_mended() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json");
        let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer, &[], 2048, CallFormat::hermes()).unwrap();
        let schema = serde_json::json!({"type": "object"});
        let (grammar, _) = ArgumentsGrammar::compile(&vocabulary, schema, false).unwrap();
        let mut call = grammar.start();
        assert_eq!(call.fit(b" {"), Ok(Fit::Fits));
        assert!(guard(|| call.parser.test_trigger_lexer_error()).is_err());
        assert!(call.fit(b" {").is_err());
        assert!(call.take(&vocabulary, 0, b" {").is_err());
        assert!(call.mask(&vocabulary).is_err());
        assert!(grammar.start().fit(b" {").is_err());
        grammar.mend(&vocabulary);
        assert_eq!(grammar.start().fit(b" {"), Ok(Fit::Fits));
        assert_eq!(grammar.start().fit(b"]"), Ok(Fit::Refused));
    }
}
