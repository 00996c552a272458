// Indonesian for the view Account.

export default {};
