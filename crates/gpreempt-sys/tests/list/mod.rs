//! The lists of `src/layout/` as values, for tests that compare them with something else.
//!
//! The library asserts the same lists at compile time, so what agrees with them agrees with the
//! Rust structs.

/// One struct: its kernel name, size and alignment in bytes, and its fields in order.
pub struct Struct {
    pub name: &'static str,
    pub size: u64,
    pub align: u64,
    pub fields: Vec<Field>,
}

/// One field: its kernel name, offset and size in bytes.
pub struct Field {
    pub name: &'static str,
    pub offset: u64,
    pub size: u64,
}

/// One request: its kernel name, its number and the struct it takes.
pub struct Request {
    pub name: &'static str,
    pub number: u32,
    pub args: &'static str,
}

/// One constant: its kernel name, its value and the bytes of its type.
pub struct Constant {
    pub name: &'static str,
    pub value: u64,
    pub bytes: usize,
}

/// One of the two lists.
pub struct Abi {
    pub structs: Vec<Struct>,
    pub requests: Vec<Request>,
    pub constants: Vec<Constant>,
}

/// A struct whose fields end where the next one begins: the mirror has no padding.
pub fn packed(name: &'static str, size: u64, align: u64, offsets: &[(&'static str, u64)]) -> Struct {
    let ends = offsets.iter().skip(1).map(|&(_, offset)| offset).chain([size]);
    let fields = offsets
        .iter()
        .zip(ends)
        .map(|(&(name, offset), end)| Field { name: name.trim_start_matches("r#"), offset, size: end - offset })
        .collect();
    Struct { name, size, align, fields }
}

/// Turns a list of `src/layout/` into an [`Abi`]; the constants must be in scope.
#[macro_export]
macro_rules! list_abi {
    (
        structs {$(
            $name:ident: size $size:literal, align $align:literal {
                $($field:ident: $offset:literal,)*
            }
        )*}
        requests { $($request:ident: $number:literal of $args:ident,)* }
        constants { $($constant:ident,)* }
    ) => {
        list::Abi {
            structs: vec![$(
                list::packed(
                    stringify!($name), $size, $align, &[$((stringify!($field), $offset),)*],
                ),
            )*],
            requests: vec![$(
                list::Request {
                    name: stringify!($request), number: $number, args: stringify!($args),
                },
            )*],
            constants: vec![$(
                list::Constant {
                    name: stringify!($constant),
                    value: u64::from($constant),
                    bytes: size_of_val(&$constant),
                },
            )*],
        }
    };
}
