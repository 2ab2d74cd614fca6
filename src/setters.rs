//! The macro that defines builder methods.

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

pub(crate) use setters;
