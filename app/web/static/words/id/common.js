// Indonesian for what all views have.

export default {
  "Views": "Halaman",
  "Remove": "Hapus latar",
  "History": "Riwayat",
  "Account": "Akun",
  "Admin": "Admin",
  "Language": "Bahasa",
  "Cutout": "Cutout",
  "API": "API",
  "This page needs JavaScript.": "Halaman ini memerlukan JavaScript.",
  "The service answered {status}.": "Layanan menjawab {status}.",
  "The service cannot be reached. Is it still running?": "Layanan tidak dapat dihubungi. Apakah masih berjalan?",
};
