"""Who is in the job, which strategy joins them, and who watches over the processes."""
