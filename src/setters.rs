//! The macros that define builder methods.

/// Defines public methods that set one field and return the builder. `backlog(connections: u32) =>
/// backlog = Some(connections);` defines the method `backlog` with the argument `connections`.
macro_rules! setters {
    ($(
        $(#[$attribute:meta])*
        $name:ident($argument:ident: $type:ty) => $($field:ident).+ = $value:expr;
    )+) => {$(
        $(#[$attribute])*
        #[must_use]
        pub fn $name(mut self, $argument: $type) -> Self {
            self.$($field).+ = $value;
            self
        }
    )+};
}

/// Defines a builder method for each listed public field of a type. Each method has the name of its
/// field, and its documentation links to the field. A method for an `optional` field accepts a
/// value without `Some`.
macro_rules! field_setters {
    (
        $type:ident: $($(#[$attribute:meta])* $field:ident: $value:ty),+;
        optional: $($optional:ident: $inner:ty),+ $(,)?
    ) => {
        $(
            $(#[$attribute])*
            #[doc = concat!(
                "Sets [`", stringify!($field), "`](", stringify!($type), "#structfield.",
                stringify!($field), ")."
            )]
            #[must_use]
            pub fn $field(mut self, value: $value) -> Self {
                self.$field = value;
                self
            }
        )+
        $(
            #[doc = concat!(
                "Sets [`", stringify!($optional), "`](", stringify!($type), "#structfield.",
                stringify!($optional), ")."
            )]
            #[must_use]
            pub fn $optional(mut self, value: impl Into<Option<$inner>>) -> Self {
                self.$optional = value.into();
                self
            }
        )+
    };
}

pub(crate) use {field_setters, setters};
