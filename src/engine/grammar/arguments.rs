//! The arguments of one tool, and the end of the call: a JSON schema as
//! llguidance's grammar, and that grammar at work.
//!
//! The one file that calls llguidance's parser. It is a large machine that
//! asserts what it believes, so each call is guarded: a panic in it becomes an
//! error that costs one call its grammar.
//!
//! Knows nothing of names and of what precedes the arguments.

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::{BiasComputer, CGrammar, CSymIdx, Parser, ParserRecognizer};
use llguidance::toktrie::{Recognizer, SimpleVob, TokTrie};
use llguidance::{ParserFactory, panic_utils};
use serde_json::{Value, json};

use super::extent::Extent;
use super::vocabulary::{Vocabulary, first_line};
use super::{CallFormat, MAX_BLANKS};

/// The grammar of one tool's arguments and what closes the call.
pub(super) struct ArgumentsGrammar {
    /// To build the parser anew after a failure.
    source: TopLevelGrammar,
    /// The parser before the first byte. Its clones share the lexer's states,
    /// which are made as they are needed, so a text once seen is fast for all;
    /// and so is a lexer's failure, after which it is built anew.
    fresh: Mutex<Parser>,
}

/// A call from its arguments on.
pub(super) struct Arguments {
    parser: Parser,
    extent: Extent,
}

/// What some bytes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// They do not fit.
    Refused,
    /// They fit, and the call goes on.
    Fits,
    /// So many of them fit and close the call.
    Closes(usize),
}

impl ArgumentsGrammar {
    /// Compiles `schema`, which is an object's. If `lenient`, what llguidance
    /// does not know is left out, and comes back as warnings.
    ///
    /// # Errors
    /// Why it cannot be compiled, in a line.
    pub(super) fn compile(
        vocabulary: &Vocabulary,
        mut schema: Value,
        lenient: bool,
    ) -> Result<(Self, Vec<String>), String> {
        let Some(object) = schema.as_object_mut() else {
            return Err("the schema is not an object".to_owned());
        };
        // The schema's own options, if it brought any, are not its business.
        let options = json!({
            "whitespace_pattern": blanks(),
            "lenient": lenient,
            "json_allow_general_unicode_escapes": true,
        });
        object.insert("x-guidance".to_owned(), options);
        let source = source(vocabulary.format(), schema);
        let mut parser = parser(vocabulary.factory(), &source)?;
        let warnings = guard(|| {
            let dead = dead_end(parser.grammar(), vocabulary.factory().limits())?;
            match dead {
                Some(symbol) => Err(format!("nothing satisfies a part of it ({symbol})")),
                None => Ok(parser.grammar_warnings()),
            }
        })??;
        let fresh = Mutex::new(parser);
        Ok((Self { source, fresh }, warnings))
    }

    /// A call at the start of its arguments.
    pub(super) fn start(&self) -> Arguments {
        // A panic elsewhere cannot have left the parser half written: it is
        // only ever replaced as a whole.
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        Arguments {
            parser: fresh.clone(),
            extent: Extent::new(),
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
    pub(super) fn fit(&mut self, closer: &[u8], bytes: &[u8]) -> Result<Fit, String> {
        let mut extent = self.extent;
        let fit = guard(|| {
            self.parser.with_recognizer(|recognizer| {
                recognizer.trie_started("fit");
                let mut fit = Fit::Fits;
                for (at, byte) in bytes.iter().enumerate() {
                    let overlong = extent.overlong(*byte)
                        && b",}]".iter().any(|end| recognizer.byte_allowed(*end));
                    if overlong || !recognizer.try_push_byte(*byte) {
                        fit = Fit::Refused;
                        break;
                    }
                    if extent.feed(closer, *byte) {
                        fit = Fit::Closes(at + 1);
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

    /// How many of the bytes, which fit, belong to the call, if they close it.
    pub(super) fn end(&self, closer: &[u8], bytes: &[u8]) -> Option<usize> {
        let mut extent = self.extent;
        let last = bytes.iter().position(|byte| extent.feed(closer, *byte))?;
        Some(last + 1)
    }

    /// Takes bytes that fit and do not close the call. `token` is the token
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
            self.extent
                .feed(vocabulary.format().closer.as_bytes(), *byte);
        }
        Ok(())
    }

    /// The tokens that fit. Those that close the call and go on behind it are
    /// not among them.
    ///
    /// # Errors
    /// If llguidance fails or nothing fits; the call has no grammar any more.
    pub(super) fn mask(&mut self, vocabulary: &Vocabulary) -> Result<SimpleVob, String> {
        let slicer = vocabulary.factory().slicer();
        let mut mask = guard(|| self.parser.compute_bias(&*slicer, &[]))?;
        self.failure()?;
        let closer = vocabulary.format().closer.as_bytes();
        for token in vocabulary.with_digits() {
            let bytes = vocabulary.bytes(*token);
            if mask.is_allowed(*token)
                && self.may_be_overlong(closer, bytes)
                && self.fit(closer, bytes)? == Fit::Refused
            {
                mask.disallow_token(*token);
            }
        }
        if mask.is_zero() {
            return Err("no token fits".to_owned());
        }
        Ok(mask)
    }

    fn may_be_overlong(&self, closer: &[u8], bytes: &[u8]) -> bool {
        let mut extent = self.extent;
        bytes.iter().any(|byte| {
            let overlong = extent.overlong(*byte);
            extent.feed(closer, *byte);
            overlong
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

/// Whitespace that may stand between two parts of a call.
fn blanks() -> String {
    format!(r"[ \t\r\n]{{1,{MAX_BLANKS}}}")
}

/// The arguments, the end of the call's object and the closer.
fn source(format: &CallFormat, schema: Value) -> TopLevelGrammar {
    let closer = Value::from(format.closer.as_str());
    let call = format!(
        "%llguidance {{\"ignore_once\": true, \"allow_initial_skip\": true}}\n\
         start: @arguments \"}}\" {closer}\n\
         %ignore /{}/\n",
        blanks()
    );
    let mut arguments = GrammarWithLexer::from_json_schema(schema);
    arguments.name = Some("arguments".to_owned());
    TopLevelGrammar {
        grammars: vec![GrammarWithLexer::from_lark(call), arguments],
        max_tokens: None,
    }
}

fn parser(factory: &ParserFactory, source: &TopLevelGrammar) -> Result<Parser, String> {
    let parser = factory.create_parser(source.clone());
    let parser = parser.map_err(|error| first_line(&error.to_string()))?;
    Ok(parser.parser)
}

/// A part of the grammar that no text satisfies, if there is one: a number
/// between limits that hold none, or an object that must contain itself. A
/// model could begin it and would never come to its end.
fn dead_end(grammar: &CGrammar, limits: &ParserLimits) -> Result<Option<String>, String> {
    let specification = grammar.lexer_spec();
    let mut lexer = specification
        .to_regex_vec(&mut limits.clone())
        .map_err(|error| first_line(&error.to_string()))?;
    let symbols = reachable(grammar);
    let mut productive = vec![false; symbols.iter().map(|s| s.as_index() + 1).max().unwrap_or(0)];
    for symbol in &symbols {
        let data = grammar.sym_data(*symbol);
        productive[symbol.as_index()] = data.is_nullable
            || data.lexeme.is_some_and(|lexeme| {
                let mut lexemes = specification.alloc_lexeme_set();
                lexemes.add(lexeme);
                !lexer.initial_state(&lexemes).is_dead()
            });
    }
    loop {
        let mut changed = false;
        // Parts come before what they are part of, mostly.
        for symbol in symbols.iter().rev() {
            if productive[symbol.as_index()] {
                continue;
            }
            let complete = grammar.rules_of(*symbol).iter().any(|rule| {
                let (parts, ..) = grammar.rule_rhs(*rule);
                parts.iter().all(|part| productive[part.as_index()])
            });
            productive[symbol.as_index()] = complete;
            changed |= complete;
        }
        if !changed {
            break;
        }
    }
    let dead = symbols.iter().find(|symbol| !productive[symbol.as_index()]);
    Ok(dead.map(|symbol| grammar.sym_name(*symbol).to_owned()))
}

/// All symbols that the start leads to.
fn reachable(grammar: &CGrammar) -> Vec<CSymIdx> {
    let mut seen = std::collections::HashSet::from([grammar.start()]);
    let mut symbols = vec![grammar.start()];
    let mut next = 0;
    while let Some(symbol) = symbols.get(next).copied() {
        next += 1;
        for rule in grammar.rules_of(symbol) {
            for part in grammar.rule_rhs(*rule).0 {
                if seen.insert(*part) {
                    symbols.push(*part);
                }
            }
        }
    }
    symbols
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_lexer_fails_its_calls_and_is_mended() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json");
        let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
        let vocabulary = Vocabulary::new(&tokenizer, &[], 2048, CallFormat::hermes()).unwrap();
        let schema = json!({"type": "object"});
        let (grammar, _) = ArgumentsGrammar::compile(&vocabulary, schema, false).unwrap();
        let closer = vocabulary.format().closer.as_bytes();
        let mut call = grammar.start();
        assert_eq!(call.fit(closer, b" {"), Ok(Fit::Fits));
        assert!(guard(|| call.parser.test_trigger_lexer_error()).is_err());
        assert!(call.fit(closer, b" {").is_err());
        assert!(call.take(&vocabulary, 0, b" {").is_err());
        assert!(call.mask(&vocabulary).is_err());
        assert!(grammar.start().fit(closer, b" {").is_err());
        grammar.mend(&vocabulary);
        assert_eq!(grammar.start().fit(closer, b" {"), Ok(Fit::Fits));
        assert_eq!(grammar.start().fit(closer, b"]"), Ok(Fit::Refused));
    }
}
