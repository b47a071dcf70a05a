from app.frontend.routes.signup import router as signup
from app.frontend.routes.uploads import router as uploads
from app.tasks.emails import send_welcome_email
from app.tasks.maintenance import daily_digest
from app.tasks.uploads import process_upload
from vibetuner import VibetunerApp

app = VibetunerApp(
    tasks=[send_welcome_email, daily_digest, process_upload],
    routes=[signup, uploads],
)
