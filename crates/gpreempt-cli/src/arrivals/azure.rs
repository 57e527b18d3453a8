//! Azure LLM inference traces: CSV of arrival time, context tokens and generated tokens, one request a line.

use super::{Arrivals, Burst, Fault, MAX_REQUESTS, MAX_TIME_NS, Request, ServiceModel, ns_of};

const HEADER: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// More than any model's context.
const MAX_TOKENS: u32 = 10_000_000;

pub(super) fn parse(text: &str, service: &ServiceModel) -> Result<Arrivals, Fault> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next();
    if !header.is_some_and(|(_, line)| line.trim().split(',').map(str::trim).eq(HEADER)) {
        return Err(Fault::at(
            header.map_or(1, |(index, _)| index + 1),
            format!(
                "is no trace this program knows: expected the CSV header `{}`, a DISB JSON object or a JSON list of gaps",
                HEADER.join(",")
            ),
        ));
    }
    let mut rows: Vec<(i64, u32, u32)> = Vec::new();
    for (index, line) in lines {
        let number = index + 1;
        let fields: Vec<&str> = line.trim().split(',').map(str::trim).collect();
        let [time, context, generated] = fields[..] else {
            return Err(Fault::at(number, format!("has {} fields, expected {}", fields.len(), HEADER.join(","))));
        };
        if rows.len() == MAX_REQUESTS {
            return Err(Fault::at(number, format!("at most {MAX_REQUESTS} requests can be replayed")));
        }
        let time = timestamp(time).ok_or_else(|| {
            Fault::at(number, format!("TIMESTAMP `{time}` is not of the form YYYY-MM-DD hh:mm:ss[.fraction]"))
        })?;
        rows.push((time, tokens(context, HEADER[1], number)?, tokens(generated, HEADER[2], number)?));
    }
    let first = rows.iter().map(|row| row.0).min().unwrap_or(0);
    let mut requests = Vec::with_capacity(rows.len());
    for (time, context, generated) in rows {
        let at_ns = u64::try_from(time - first).unwrap_or(0);
        if at_ns > MAX_TIME_NS {
            return Err(Fault::whole("spans more than 30 days"));
        }
        let mut work = Vec::with_capacity(2);
        let prefill = ns_of(f64::from(context) * service.prefill_us * 1e3);
        if prefill > 0 || generated == 0 {
            work.push(Burst::split(prefill, service.packets, service.occupancy));
        }
        if generated > 0 {
            let token = ns_of(service.decode_us * 1e3);
            work.push(Burst { packets: generated, packet_ns: token.max(1), occupancy: service.occupancy });
        }
        requests.push(Request { at_ns, work });
    }
    Ok(Arrivals {
        source: "Azure LLM inference trace".into(),
        assumptions: vec![format!(
            "each request: prefill {} us per context token in {} packets, then decode {} us per generated token, one packet each",
            service.prefill_us, service.packets, service.decode_us
        )],
        span_ns: requests.iter().map(|request| request.at_ns).max().unwrap_or(0),
        requests,
        ..Arrivals::default()
    })
}

fn tokens(field: &str, name: &str, line: usize) -> Result<u32, Fault> {
    match field.parse::<u32>() {
        Ok(count) if count <= MAX_TOKENS => Ok(count),
        _ => Err(Fault::at(line, format!("{name} `{field}` is not a whole number from 0 to {MAX_TOKENS}"))),
    }
}

/// Nanoseconds since 1970 of `YYYY-MM-DD hh:mm:ss[.fraction]` (also with a `T`), without a time zone.
fn timestamp(text: &str) -> Option<i64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    let nanos =
        number(fraction.get(..fraction.len().min(9))?, 9)? * 10i64.pow(9 - u32::try_from(fraction.len().min(9)).ok()?);
    let valid = (1970..=2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| (((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000_000 + nanos)
}

/// A number of 1 to `most` ASCII digits.
fn number(text: &str, most: usize) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Days of a month, 1 to 12.
fn days_of(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(next_year, next_month, 1) - days(year, month, 1)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counting years from March so that leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_count_from_1970() {
        assert_eq!(timestamp("1970-01-01 00:00:00"), Some(0));
        assert_eq!(timestamp("2000-03-01 00:00:00.5"), Some(951_868_800_500_000_000));
        assert_eq!(timestamp("2023-11-16T18:15:46.6805900"), Some(1_700_158_546_680_590_000));
        for bad in
            ["2023-11-16", "2023-11-16 1:2", "2023-11-16 25:00:00", "+023-11-16 00:00:00", "2023-11-16 00:00:00.1x"]
        {
            assert_eq!(timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_day_that_its_month_does_not_have_is_no_date() {
        for (year, month, last) in [(2023, 2, 28), (2024, 2, 29), (2100, 2, 28), (2023, 4, 30), (2023, 12, 31)] {
            let of = |day: i64| timestamp(&format!("{year:04}-{month:02}-{day:02} 00:00:00"));
            assert!(of(last).is_some(), "{year}-{month}-{last}");
            assert_eq!(of(last + 1), None, "{year}-{month}-{}", last + 1);
        }
        assert_eq!(timestamp("2023-01-00 00:00:00"), None);
    }
}
