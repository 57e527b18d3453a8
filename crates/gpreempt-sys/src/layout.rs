//! Layout and numbers of the ABI, asserted at compile time.
//!
//! The two lists hold literals that were checked with a C compiler (`tests/c_layout.rs` checks
//! them again), so a field that moves here stops the build and not somebody's queue.

#[macro_use]
#[path = "layout/gpreempt.rs"]
mod gpreempt_table;
#[macro_use]
#[path = "layout/stock.rs"]
mod stock_table;

macro_rules! assert_abi {
    (
        structs {$(
            $name:ident: size $size:literal, align $align:literal {
                $($field:ident: $offset:literal,)*
            }
        )*}
        requests { $($request:ident: $number:literal of $args:ident,)* }
        constants { $($constant:ident,)* }
    ) => {
        $(const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == $align);
            $(assert!(std::mem::offset_of!($name, $field) == $offset);)*
            // Without `..`: a field that the list forgets is an error.
            const fn _every_field_is_listed(value: $name) {
                let $name { $($field: _,)* } = value;
            }
        };)*
        $(const _: () = {
            assert!($request == $number);
            assert!($request >> 16 & 0x3fff == size_of::<$args>() as u32);
        };)*
        $(const _: u64 = $constant as u64;)*
    };
}

mod gpreempt {
    use crate::gpreempt::*;
    gpreempt_abi!(assert_abi);
}

mod stock {
    use crate::stock::*;
    stock_abi!(assert_abi);
}
