//! `?filter=`: expressions over the fields of an item
//! (<https://developer.hashicorp.com/consul/api-docs/features/filtering>): `==`, `!=`, `in`, `not in`, `contains`,
//! `not contains`, `is empty`, `is not empty`, `matches`, `not matches`, with `and`, `or`, `not` and parentheses.

use regex::Regex;
use serde_json::Value;

use super::failure::Failure;

/// What of an answer a filter chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filtered {
    /// Nothing: a filter is refused.
    Nothing,
    /// The items of the list, or the values of the object.
    Items,
    /// The services of the node.
    Services,
    /// The view sees to it.
    Inside,
}

impl Filtered {
    /// What is wanted of an answer.
    pub(super) fn apply(self, filter: &Filter, mut body: Value) -> Value {
        match self {
            Self::Items => filter.apply(body),
            Self::Services => {
                if let Some(services) = body.get_mut("Services") {
                    *services = filter.apply(services.take());
                }
                body
            }
            Self::Nothing | Self::Inside => body,
        }
    }
}

/// An expression.
#[derive(Debug)]
pub(super) enum Filter {
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    /// The field is the text, or holds it.
    Equals(Vec<String>, String),
    Holds(Vec<String>, String),
    IsEmpty(Vec<String>),
    Matches(Vec<String>, Regex),
}

/// Longest expression, and deepest nesting.
const MAX_LENGTH: usize = 4096;
const MAX_DEPTH: usize = 64;

impl Filter {
    /// Reads an expression.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        if text.len() > MAX_LENGTH {
            return Err(wrong("it is too long"));
        }
        let tokens = tokens(text)?;
        let mut parser = Parser {
            tokens: &tokens,
            at: 0,
            depth: 0,
        };
        let filter = parser.either()?;
        match parser.peek() {
            None => Ok(filter),
            Some(token) => Err(wrong(&format!("{:?} is not expected", token.text))),
        }
    }

    /// Whether an item is wanted.
    pub(super) fn matches(&self, item: &Value) -> bool {
        match self {
            Self::Not(inner) => !inner.matches(item),
            Self::And(left, right) => left.matches(item) && right.matches(item),
            Self::Or(left, right) => left.matches(item) || right.matches(item),
            Self::Equals(path, text) => find(item, path).is_some_and(|it| is(it, text)),
            Self::Holds(path, text) => find(item, path).is_some_and(|it| holds(it, text)),
            Self::IsEmpty(path) => find(item, path).is_none_or(is_empty),
            Self::Matches(path, pattern) => {
                let text = find(item, path).and_then(Value::as_str);
                text.is_some_and(|it| pattern.is_match(it))
            }
        }
    }

    /// The items that are wanted, of a list or of the values of an object.
    fn apply(&self, body: Value) -> Value {
        match body {
            Value::Array(items) => items.into_iter().filter(|it| self.matches(it)).collect(),
            Value::Object(items) => {
                let items = items.into_iter().filter(|(_, it)| self.matches(it));
                Value::Object(items.collect())
            }
            other => other,
        }
    }
}

fn find<'a>(item: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(item, |value, name| value.get(name))
}

fn is(value: &Value, text: &str) -> bool {
    match value {
        Value::String(own) => own == text,
        Value::Number(number) => number.to_string() == text,
        Value::Bool(flag) => flag.to_string() == text,
        _ => false,
    }
}

fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|it| is(it, text)),
        Value::Object(items) => items.contains_key(text),
        Value::String(own) => own.contains(text),
        _ => false,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

fn wrong(why: &str) -> Failure {
    Failure::bad(format!("Failed to create the filter: {why}"))
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    text: String,
    is_quoted: bool,
}

fn tokens(text: &str) -> Result<Vec<Token>, Failure> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let mut word = String::new();
        let mut is_quoted = false;
        match c {
            c if c.is_whitespace() => continue,
            '(' | ')' => word.push(c),
            '=' | '!' => {
                word.push(c);
                word.extend(chars.next_if_eq(&'='));
            }
            '"' | '`' => {
                is_quoted = true;
                loop {
                    match chars.next() {
                        None => return Err(wrong("a quotation mark is missing")),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => word.extend(chars.next()),
                        Some(other) => word.push(other),
                    }
                }
            }
            c => {
                word.push(c);
                // In brackets a name may hold anything, also quotation marks around it.
                let mut in_brackets = false;
                while let Some(next) = chars.next_if(|it| {
                    in_brackets || !(it.is_whitespace() || matches!(it, '(' | ')' | '=' | '!'))
                }) {
                    in_brackets = (in_brackets || next == '[') && next != ']';
                    word.push(next);
                }
            }
        }
        tokens.push(Token {
            text: word,
            is_quoted,
        });
    }
    Ok(tokens)
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<&'a Token, Failure> {
        let token = self.peek().ok_or_else(|| wrong("it ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_it = self
            .peek()
            .is_some_and(|it| !it.is_quoted && it.text == word);
        self.at += usize::from(is_it);
        is_it
    }

    fn either(&mut self) -> Result<Filter, Failure> {
        let mut left = self.both()?;
        while self.take("or") {
            left = Filter::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Filter, Failure> {
        let mut left = self.one()?;
        while self.take("and") {
            left = Filter::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Filter, Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(wrong("it is nested too deeply"));
        }
        let filter = if self.take("not") {
            Filter::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.either()?;
            if !self.take(")") {
                return Err(wrong("a parenthesis is missing"));
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, Failure> {
        let first = self.next()?;
        let negated = |filter: Filter, is_not: bool| {
            if is_not {
                Filter::Not(Box::new(filter))
            } else {
                filter
            }
        };
        let is_not = self.take("not");
        if self.take("in") {
            let holder = path(&self.next()?.text);
            return Ok(negated(Filter::Holds(holder, first.text.clone()), is_not));
        }
        let path = path(&first.text);
        if self.take("contains") {
            let text = self.next()?.text.clone();
            return Ok(negated(Filter::Holds(path, text), is_not));
        }
        if self.take("matches") {
            let pattern = Regex::new(&self.next()?.text);
            let pattern = pattern.map_err(|error| wrong(&error.to_string()))?;
            return Ok(negated(Filter::Matches(path, pattern), is_not));
        }
        if is_not {
            return Err(wrong("after `not` comes in, contains or matches"));
        }
        if self.take("is") {
            let is_not = self.take("not");
            if !self.take("empty") {
                return Err(wrong("after `is` comes empty"));
            }
            return Ok(negated(Filter::IsEmpty(path), is_not));
        }
        let is_not = match self.next()?.text.as_str() {
            "==" => false,
            "!=" => true,
            other => return Err(wrong(&format!("{other:?} compares nothing"))),
        };
        let text = self.next()?.text.clone();
        Ok(negated(Filter::Equals(path, text), is_not))
    }
}

/// `Service.Meta.version`, `Service.Meta["app.version"]`: what is in brackets is one part.
fn path(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = if let Some(inner) = rest.strip_prefix('[') {
            inner.split_once(']').unwrap_or((inner, ""))
        } else {
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()))
        };
        parts.push(part.trim_matches(['"', '`']).to_owned());
        rest = after;
    }
    parts.retain(|it| !it.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_choose_items() {
        let item = json!({"Service": {"Service": "web", "Port": 8080, "Tags": ["blue", "v1"],
            "Meta": {"version": "1.2", "a-b": "c", "a.b": "d"}}, "Checks": []});
        for (text, wanted) in [
            ("Service.Service == web", true),
            ("Service.Service == \"web\"", true),
            ("Service.Service != \"web\"", false),
            ("Service.Port == 8080", true),
            ("\"blue\" in Service.Tags", true),
            ("green not in Service.Tags", true),
            (
                "Service.Tags contains v1 and not Service.Service == db",
                true,
            ),
            ("Service.Tags not contains v1", false),
            ("Service.Meta.version matches \"^1[.]\"", true),
            ("Service.Meta[\"a-b\"] == c", true),
            ("Service.Meta[\"a.b\"] == d", true),
            ("Service[\"Meta\"].version == \"1.2\"", true),
            ("Service.Meta.a.b == d", false),
            ("Service.Meta contains version", true),
            ("Checks is empty", true),
            ("Service.Tags is not empty", true),
            ("Nothing.Here is empty", true),
            (
                "Service.Service == db or (Service.Port == 8080 and Service.Tags contains blue)",
                true,
            ),
            (
                "Service.Service == db or Service.Port == 1 and Service.Tags contains blue",
                false,
            ),
        ] {
            let filter = Filter::parse(text).map_err(|it| it.text).unwrap();
            assert_eq!(filter.matches(&item), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "",
            "a",
            "a ==",
            "a = b",
            "(a == b",
            "a == b c",
            "a not b",
            "a is b",
            "a == \"b",
            "a matches \"(\"",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
        let deep = format!("{}a == b", "not ".repeat(1000));
        assert!(Filter::parse(&deep).is_err());
    }
}
