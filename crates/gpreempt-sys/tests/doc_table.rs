//! Compares the tables of `docs/kernel-abi.md` with the Rust mirror.

use gpreempt_sys::*;

mod list;
#[macro_use]
#[path = "../src/layout/gpreempt.rs"]
mod gpreempt_table;

const PAGE: &str = include_str!("../../../docs/kernel-abi.md");

/// The lines of a section, from its heading to the next one of the same rank.
fn section(title: &str) -> impl Iterator<Item = &'static str> {
    let (_, rest) = PAGE.split_once(&format!("\n## {title}\n")).expect("the page has the section");
    rest.split("\n## ").next().expect("split yields at least one piece").lines()
}

/// The trimmed cells of a row, or `None` for a line that is no row of data.
fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let cells: Vec<&str> = row.split(" | ").map(str::trim).collect();
    let data = cells[0].starts_with(|first: char| first.is_ascii_digit() || first == '`');
    data.then_some(cells)
}

/// Fails at the first row that differs, with the row before it: the whole lists are too long to read.
fn assert_same(page: &[String], mirror: &[String]) {
    let rows = page.len().max(mirror.len());
    if let Some(row) = (0..rows).find(|&row| page.get(row) != mirror.get(row)) {
        let before = row.checked_sub(1).map(|before| &page[before]);
        panic!("after {before:?} the page has {:?}, the mirror {:?}", page.get(row), mirror.get(row));
    }
}

#[test]
fn the_page_lists_every_request_with_its_number_and_struct() {
    let page: Vec<String> = section("Commands")
        .filter_map(cells)
        .filter(|cells| cells[0].starts_with("0x"))
        .map(|cells| format!("{} {} {} {}", cells[0], cells[1], cells[2], cells[4]))
        .collect();
    let mirror: Vec<String> = gpreempt_abi!(list_abi)
        .requests
        .iter()
        .map(|list::Request { name, number, args }| format!("{:#04x} {number:#010x} `{name}` `{args}`", number & 0xff))
        .collect();
    assert_same(&page, &mirror);
}

#[test]
fn the_page_lists_every_field_with_its_offset_and_size() {
    let page: Vec<String> = section("Structs")
        .filter_map(|line| {
            let heading = line.strip_prefix("### ").map(str::to_string);
            heading.or_else(|| Some(cells(line)?[..3].join(" ")))
        })
        .collect();
    let mut mirror = Vec::new();
    for list::Struct { name, size, align, fields } in gpreempt_abi!(list_abi).structs {
        mirror.push(format!("`{name}`: {size} bytes, aligned to {align}"));
        mirror.extend(fields.iter().map(|field| format!("{} {} `{}`", field.offset, field.size, field.name)));
    }
    assert_same(&page, &mirror);
}

#[test]
fn the_page_lists_every_constant_with_its_value() {
    let page: Vec<String> = section("Values").filter_map(|line| Some(cells(line)?[..2].join(" "))).collect();
    let mirror: Vec<String> = gpreempt_abi!(list_abi)
        .constants
        .iter()
        .map(|list::Constant { name, value, bytes }| match (value, bytes) {
            (0xffff_ffff, 4) => format!("`{name}` {value:#x}"),
            _ => format!("`{name}` {value}"),
        })
        .collect();
    assert_same(&page, &mirror);
}
