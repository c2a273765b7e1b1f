//! Grammars that can be begun and never come to an end.
//!
//! Knows nothing of schemas.

use llguidance::api::ParserLimits;
use llguidance::earley::{CGrammar, CSymIdx};

use super::vocabulary::first_line;

/// A part of the grammar that no text satisfies, if there is one: a number
/// between limits that hold none, or an object that must contain itself. A
/// model could begin it and would never come to its end.
pub(super) fn dead_end(
    grammar: &CGrammar,
    limits: &ParserLimits,
) -> Result<Option<String>, String> {
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
